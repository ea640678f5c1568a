#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""bench.py DIR [PAGES]: the report of make bench, from the results that lie in DIR.

Writes DIR/bench.txt, bench.csv and the plots, *.svg and *.png, and prints the text; to PAGES, the page with its plots.
"""
import collections
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
    ("attach", r"attach\..*cpu$", "Attaching and detaching a namespace, by GiB", "thousand instructions"),
    ("wait", r"attach\..*elapsed$", "The same, with what it waits for", "milliseconds, a million instructions each"),
    ("dram", r"attach\..*dram-kib$", "DRAM that an attached namespace takes", "KiB"),
    ("unbind", r"unbind\..*cpu$", "Unbinding under mapped files, and unmounting", "thousand instructions"),
]


def read(path):
    """NAME -> number, or the text of what was refused; of repetitions the least."""
    results = {}
    if not path.exists():
        return results
    for line in path.read_text().splitlines():
        name, _, value = line.partition("\t")
        if m := re.fullmatch(r"(attach\..*)\.\d+\.(cpu|elapsed)", name):
            name = f"{m[1]}.{m[2]}"
        try:
            value = float(value)
        except ValueError:
            results[name] = value.split(":")[0]
            continue
        if name.endswith(".cpu"):
            value /= 1000
        elif name.endswith(".elapsed"):
            value /= 1000000
        results[name] = min(value, results.get(name, value))
    return results


PAGE = """.. SPDX-License-Identifier: GPL-2.0

========================
What DAX and GUP do cost
========================

This page is made by ``make bench`` in the repository of the series, of

{versions}

all with the same configuration (``tools/dax-gup/config/bench*.config`` there: no debugging, CONFIG_PREEMPT=y), built by the
same compiler. QEMU emulates one processor with ``-icount shift=0,sleep=off``, so that a nanosecond of the guest is an
instruction, and figures repeat. They leave out what caches, TLBs and cache flushes cost, which is why ratios of wall-clock
times stand below; these are of the emulation, too. An access with a lock prefix counts as one instruction. ``rep`` string
instructions are disabled where the kernel has a choice.

The names: ``pmd`` and ``pte`` are how a file with DAX is mapped, ``thp`` and ``anon`` is anonymous memory in huge and in small
pages, ``sync`` is MAP_SYNC; 512 and 1 are pages a call, ``w`` and ``r`` is with FOLL_WRITE and without; ``cold`` is a file with
blocks and without DAX entries, ``again`` one that has both. Of several runs the least is given. Columns that begin with a
slash are ratios: less than one is in favour of this series. ``direct`` is the least of single calls; on virtio the time
of the process on the processor, without what comes while it sleeps. ``unbind`` says how many of 256 files of 2 MiB are mapped;
the others have their DAX entries from before (``cached``), or none since the mount (``mounted``). ``raw`` is a namespace
without a memmap that DAX does not use.

What is dearer than in stock 7.3, and what for:

- A call of GUP for a single page, by a few instructions: each leaf is asked whether a device hosts it, which also takes
  registers from the loop around it. For that, no pin comes about of a page whose device goes away. A call that pins for long
  also asks of each vma whether its file has to keep its blocks.
- A fault that makes a DAX entry (``write-unwritten``, ``cold``): the entry takes a reference to its device's pgmap, by
  get_dev_pagemap() below, so that the memmap stays for as long as the entry does.
- Each fault for a write: the pfn_t and the devmap bit on their way from the driver to the leaf, in vmf_insert_page_mkwrite()
  and what that calls, and that dax_fault_iter() makes sure that an entry which it finds is of the block that the file has.
- A single page that is pinned for long, against one of device-dax: its block is marked in its DAX entry, so that the file keeps
  it. Many small pages cost less than with device-dax, as their page table is looked up once. Stock 7.3 refuses such pins.
- Detaching a namespace waits longer, for tasks that are preempted between the last reference of a page and its pgmap.
- Unbinding under files that are cached deletes their DAX entries, as each holds the device: see what unmounting them takes,
  which on the other kernels has to come first. Files without entries cost next to nothing.

O_DIRECT of many small pages of a file takes more than of anonymous memory, though less than in stock: for each page of a device
iov_iter_extract_bvecs() compares its pgmap with that of the page before. That is the block layer's, and as it was.

"""


def breakdown(out, kernels):
    """Rows of FUNCTION, instructions per page and kernel, by window, for those that make the most difference to stock."""
    windows = collections.defaultdict(lambda: collections.defaultdict(dict))
    for k, _ in kernels:
        path = out / f"{k}.profile"
        for line in path.read_text().splitlines() if path.exists() else []:
            window, function, n = line.split(",")
            windows[window][function][k] = int(n)
    for window, functions in windows.items():
        pages = 512 if window.startswith("pte.") or window.startswith("anon.") else 1
        rows = [["", *[title for _, title in kernels]]]
        total = {k: sum(f.get(k, 0) for f in functions.values()) / pages for k, _ in kernels}
        if any(not t for t in total.values()):
            continue
        rows.append(["in all", *[number(total[k]) for k, _ in kernels]])
        order = sorted(functions.items(), key=lambda f: -abs(f[1].get("series", 0) - f[1].get("stock", 0)))
        for function, count in order[:14]:
            rows.append([function, *[number(count.get(k, 0) / pages) for k, _ in kernels]])
        yield window, "instructions per page" if pages > 1 else "instructions", rows


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
    for terminal, suffix in (("svg size 900,500 dynamic", "svg"), ("png size 900,500", "png")):
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
                lines.append(f'"{memory.upper()}, {label}" ' + " ".join(f"{v / values[1]:.3f}" for v in values))
    if lines and len(kernels) == 3:
        path = data("gup", lines)
        gnuplot(out, "gup", "GUP of DAX pages, relative to stock 7.3", f"""
            set style data histogram
            set style fill solid 0.8
            set logscale y
            set yrange [0.5:*]
            set xtics rotate by -50
            plot {", ".join(f"'{path}' using {i + 2}:xtic(1) title '{t}'" for i, (_, t) in enumerate(kernels))}
            """, "instructions, stock = 1")
        have.append(("gup", "GUP of DAX pages, instructions relative to stock 7.3"))

    curves = {}
    for k, title in kernels:
        for name, value in results[k].items():
            m = re.fullmatch(r"attach\.(\w+)\.(\d+)\.attach\.cpu", name)
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

    curves = collections.defaultdict(list)
    for name, value in results["series"].items():
        if m := re.fullmatch(r"unbind\.(cached|mounted)\.(\d+)\.cpu", name):
            curves["have DAX entries" if m[1] == "cached" else "have none"].append((int(m[2]), value))
    if curves:
        parts = []
        for label, points in curves.items():
            path = data(f"unbind-{len(parts)}", [f"{x} {y}" for x, y in sorted(points)])
            parts.append(f"'{path}' with linespoints title 'the others {label}'")
        gnuplot(out, "unbind", "Unbinding a device with 256 files",
                "set xlabel 'files that are mapped'\nset yrange [0:*]\nplot " + ", ".join(parts), "thousand instructions")
        have.append(("unbind", "Unbinding a device with 256 files, by how many of them are mapped"))
    return have


def main():
    out = Path(sys.argv[1])
    results = {k: read(out / f"{k}.results") for k, _ in KERNELS}
    kernels = [(k, t) for k, t in KERNELS if results[k]]
    version = {k: (out / f"{k}.version").read_text().strip() for k, _ in kernels}

    csv = ["name," + ",".join(f"{t} ({version[k]})" for k, t in kernels)]
    for name in sorted({n for r in results.values() for n in r}, key=natural):
        csv.append(",".join([name, *[str(results[k].get(name, "")) for k, _ in kernels]]))
    (out / "bench.csv").write_text("\n".join(csv) + "\n")

    report = []

    def section(title, intro, rows):
        report.extend([title, "=" * len(title), "", intro, "", table(rows), ""])

    for _, pattern, title, unit in SECTIONS:
        rows = section_rows(pattern, results, kernels)
        if len(rows) > 1:
            section(title, unit[0].upper() + unit[1:] + ".", rows)
    for window, unit, rows in breakdown(out, kernels):
        section(f"Where they go: {window}",
                unit[0].upper() + unit[1:] + ", by function: in all, and where ours differs most from stock.", rows)
    rows, rounds = wall_rows(out, kernels)
    if rows:
        section("Wall-clock time", f"Ratios of the times of {rounds} interleaved rounds on one emulated processor: the median, "
                "and the least and the greatest. Where these are far apart, the machine had other things to do.", rows)
    (out / "bench.txt").write_text("\n".join(report))
    print("\n".join(report))

    figures = []
    for name, caption in plots(out, results, kernels):
        figures += [f".. figure:: dax-gup-{name}.svg", f"   :alt: {caption}", "", f"   {caption}", ""]
    if len(sys.argv) > 2:
        pages = Path(sys.argv[2])
        versions = "\n".join(f"- {t}: {version[k]}" for k, t in kernels)
        page = PAGE.format(versions=versions) + "\n".join(figures + report)
        (pages / "dax-gup-bench.rst").write_text(page.rstrip() + "\n")
        for svg in out.glob("*.svg"):
            lines = [line.rstrip() for line in svg.read_text().splitlines()]
            (pages / f"dax-gup-{svg.name}").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
