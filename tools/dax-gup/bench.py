#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""bench.py DIR: the report of make bench, from the results that lie in DIR.

Writes DIR/bench.txt, bench.csv, bench.rst and the plots *.svg and *.png, and prints the text.
"""
import re
import statistics
import subprocess
import sys
from pathlib import Path

KERNELS = [("series", "this series"), ("stock", "stock 7.3"), ("6.12", "6.12")]

# Results whose names match, in the order of their first group; the unit; what a label is made of.
SECTIONS = [
    ("gup", r"gup\.", "GUP and its opposite", "instructions per page"),
    ("fault", r"(re)?fault\..*(write|read)-(unwritten|cold|again)$", "Page faults", "instructions per fault"),
    ("munmap", r"(re)?fault\..*munmap", "munmap()", "instructions per 4 KiB"),
    ("fork", r"fork\.", "fork() of one mapping", "instructions per 4 KiB"),
    ("direct", r"direct\.", "O_DIRECT into a mapping", "instructions per read()"),
    ("register", r"register\.", "RDMA registration (rxe)", "instructions per MiB"),
    ("attach", r"attach\..*(attach|detach)$", "Attaching and detaching a namespace", "thousand instructions"),
    ("dram", r"attach\..*dram-kib$", "DRAM that an attached namespace takes", "KiB"),
    ("unbind", r"unbind\.", "Unbinding under mapped files", "thousand instructions"),
]


def read(path):
    """NAME -> number, or the text of what was refused; of repetitions the least."""
    results = {}
    if not path.exists():
        return results
    for line in path.read_text().splitlines():
        name, _, value = line.partition("\t")
        repeated = re.fullmatch(r"(.*)\.(\d+)\.write", name)
        if name.startswith("attach.") and repeated:
            name = repeated[1]
        elif name.startswith("unbind."):
            name = name.removesuffix(".write")
        try:
            value = float(value)
        except ValueError:
            results[name] = value.split(":")[0]
            continue
        if name.startswith(("attach.", "unbind.")) and not name.endswith("-kib"):
            value /= 1000
        results[name] = min(value, results.get(name, value))
    return results


def number(value):
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def ratio(a, b):
    return f"{a / b:.2f}" if isinstance(a, float) and isinstance(b, float) and b else ""


def natural(name):
    return [int(w) if w.isdigit() else w for w in re.split(r"(\d+)", name)]


def table(rows):
    """Rows of words as a simple table of reStructuredText, which reads well as text, too."""
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rule = "  ".join("=" * w for w in width)
    lines = ["  ".join(w.ljust(n) if i == 0 else w.rjust(n) for i, (w, n) in enumerate(zip(row, width))).rstrip()
             for row in rows]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def section_rows(pattern, results, kernels):
    names = sorted({n for r in results.values() for n in r if re.match(pattern, n)}, key=natural)
    rows = [["", *[title for _, title in kernels], *[f"/ {title}" for _, title in kernels[1:]]]]
    for name in names:
        values = [results[k].get(name) for k, _ in kernels]
        rows.append([name, *map(number, values), *[ratio(values[0], v) for v in values[1:]]])
    return rows


def wall_rows(out, kernels):
    """Wall-clock: of each ratio the median over the rounds, and the least and greatest."""
    rounds = sorted(out.glob("series.wall.*"))
    rows = [["", *[f"/ {title}" for _, title in kernels[1:]]]]
    ratios = {}
    for path in rounds:
        n = path.suffix
        ours = read(path)
        for k, _ in kernels[1:]:
            theirs = read(out / f"{k}.wall{n}")
            for name, value in ours.items():
                other = theirs.get(name)
                if isinstance(value, float) and isinstance(other, float) and other > 0:
                    ratios.setdefault(name, {}).setdefault(k, []).append(value / other)
    for name in sorted(ratios, key=natural):
        row = [name]
        for k, _ in kernels[1:]:
            r = ratios[name].get(k)
            row.append(f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" if r else "")
        rows.append(row)
    return rows if len(rows) > 1 else None, len(rounds)


def gnuplot(out, name, title, body, ylabel):
    for terminal, suffix in (("svg size 900,500 dynamic", "svg"), ("pngcairo size 900,500", "png")):
        script = f"""
            set terminal {terminal}
            set output '{out / name}.{suffix}'
            set title '{title}'
            set ylabel '{ylabel}'
            set grid ytics
            set key outside right top
            {body}
        """
        subprocess.run(["gnuplot"], input=script, text=True, check=True)


def plots(out, results, kernels):
    have = []

    def data(name, lines):
        path = out / f"{name}.dat"
        path.write_text("\n".join(lines) + "\n")
        return path

    wanted = [("get.512.w", "get, 512"), ("put.512.w", "put, 512"), ("pin.512.w", "pin, 512"), ("unpin.512.w", "unpin, 512"),
              ("get.1.w", "get, 1"), ("pin.1.w", "pin, 1")]
    lines = []
    for memory in ("pmd", "pte"):
        for key, label in wanted:
            values = [results[k].get(f"gup.{memory}.{key}") for k, _ in kernels]
            if all(isinstance(v, float) for v in values):
                lines.append(f'"{label}\\n{memory.upper()}" ' + " ".join(f"{v / values[1]:.3f}" for v in values))
    if lines and len(kernels) == 3:
        path = data("gup", lines)
        gnuplot(out, "gup", "GUP of DAX pages, relative to stock 7.3", f"""
            set style data histogram
            set style fill solid 0.8
            set yrange [0:*]
            plot {", ".join(f"'{path}' using {i + 2}:xtic(1) title '{t}'" for i, (_, t) in enumerate(kernels))}
            """, "instructions, stock = 1")
        have.append(("gup", "GUP of DAX pages, instructions relative to stock 7.3"))

    curves = {}
    for k, title in kernels:
        for name, value in results[k].items():
            m = re.fullmatch(r"attach\.(\w+)\.(\d+)\.attach", name)
            if m and (k != "6.12" or m[1] != "raw") and (k == "series" or m[1] != "raw"):
                curves.setdefault(f"{m[1]}, {title}", []).append((int(m[2]), value))
    if curves:
        parts = []
        for i, (label, points) in enumerate(sorted(curves.items())):
            path = data(f"attach-{i}", [f"{x} {y}" for x, y in sorted(points)])
            parts.append(f"'{path}' with linespoints title '{label}'")
        gnuplot(out, "attach", "Attaching a namespace",
                "set logscale xy\nset xlabel 'GiB'\nplot " + ", ".join(parts), "thousand instructions")
        have.append(("attach", "Attaching a namespace, by its size"))

    points = sorted((int(m[1]), v) for n, v in results["series"].items()
                    if (m := re.fullmatch(r"unbind\.(\d+)\.of\.\d+", n)))
    if points:
        path = data("unbind", [f"{x} {y}" for x, y in points])
        gnuplot(out, "unbind", "Unbinding a device with 1024 files",
                f"set xlabel 'files that are mapped'\nset yrange [0:*]\nplot '{path}' with linespoints title 'this series'",
                "thousand instructions")
        have.append(("unbind", "Unbinding a device with 1024 files, by how many of them are mapped"))
    return have


def main():
    out = Path(sys.argv[1])
    results = {k: read(out / f"{k}.results") for k, _ in KERNELS}
    kernels = [(k, t) for k, t in KERNELS if results[k]]
    version = {k: (out / f"{k}.version").read_text().strip() for k, _ in kernels}

    csv = ["name," + ",".join(version[k] + " " + t for k, t in kernels)]
    for name in sorted({n for r in results.values() for n in r}, key=natural):
        csv.append(",".join([name, *[str(results[k].get(name, "")) for k, _ in kernels]]))
    (out / "bench.csv").write_text("\n".join(csv) + "\n")

    text, rst = [], []
    for _, pattern, title, unit in SECTIONS:
        rows = section_rows(pattern, results, kernels)
        if len(rows) == 1:
            continue
        text += [f"{title}, {unit}", "", table(rows), ""]
        rst += [title, "-" * len(title), "", unit[0].upper() + unit[1:] + ".", "", table(rows), ""]
    rows, rounds = wall_rows(out, kernels)
    if rows:
        title = "Wall-clock time"
        intro = (f"Ratios of the times of {rounds} interleaved rounds on one emulated processor: the median, "
                 "and the least and the greatest.")
        text += [title, "", intro, "", table(rows), ""]
        rst += [title, "-" * len(title), "", intro, "", table(rows), ""]
    for name, caption in plots(out, results, kernels):
        rst += [f".. figure:: dax-gup-{name}.svg", f"   :alt: {caption}", "", f"   {caption}", ""]
    (out / "bench.txt").write_text("\n".join(text))
    (out / "bench.rst").write_text("\n".join(rst))
    print("\n".join(text))


if __name__ == "__main__":
    main()
