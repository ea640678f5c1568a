#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Read (K)TAP, as in a selftest's output or a kernel log, and print a line for every test that has no subtests:

    ok|not ok|skip<TAB>SUITE: NAME[<TAB>reason]

A plan that is not fulfilled is a failure of its own, and so is no result at all.
"""
import re
import sys

RESULT = re.compile(r"( *)(ok|not ok) \d+(?: -)? ?(.*?)(?: *# *(SKIP|XFAIL|TODO)\b:? *(.*))?$", re.I)
PLAN = re.compile(r"( *)1\.\.(\d+)(?: *# *SKIP *(.*))?$")
STAMP = re.compile(r"^(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ")


def parse(lines, suite):
    found = []      # (indent, verdict, name, reason), subtests before their parent
    plans = {}      # indent -> [planned, seen]

    def close(indent):
        for deep in [i for i in plans if i > indent]:
            planned, seen = plans.pop(deep)
            if planned is not None and planned != seen:
                found.append((deep, "not ok", "plan", f"{planned} tests planned, {seen} seen"))

    for line in lines:
        line = STAMP.sub("", line.rstrip("\n"))
        if m := PLAN.match(line):
            indent = len(m[1])
            close(indent)
            plans.setdefault(indent, [None, 0])[0] = int(m[2])
            if m[2] == "0":
                found.append((indent, "skip", "all", m[3] or "nothing to run"))
        elif m := RESULT.match(line):
            indent, verdict, name, directive, reason = len(m[1]), m[2].lower(), m[3].strip(), m[4], m[5]
            if directive and directive.upper() == "SKIP":
                verdict = "skip"
            elif directive:
                verdict = "ok"      # failed as expected
            close(indent)
            plans.setdefault(indent, [None, 0])[1] += 1
            subtests = [f for f in found if f[0] > indent]
            found = [f for f in found if f[0] <= indent]
            found += [(indent, v, f"{name}.{n}", r) for _, v, n, r in subtests]
            if not subtests or verdict == "not ok" and all(f[1] != "not ok" for f in subtests):
                found.append((indent, verdict, name, reason))
    close(-1)
    if not found:
        found.append((0, "not ok", "results", "no test result at all"))
    for _, verdict, name, reason in found:
        yield f"{verdict}\t{suite}: {name}" + (f"\t{reason}" if reason else "")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: ktap.py SUITE FILE")
    with open(sys.argv[2], encoding="utf-8", errors="replace") as f:
        print("\n".join(parse(f, sys.argv[1])))
