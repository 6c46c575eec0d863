#!/usr/bin/env python3
"""Prints what the suite stored, as the tables of docs/performance.md.

    bench/report.py RESULTS.json...                                prints them
    bench/report.py RESULTS.json... --into docs/performance.md     puts each between its markers there

Several files are shown as one, about the machine and the tools of the last.

A marker is `<!-- measured: W1 -->` with `<!-- end -->` on a line of its own; `machine` in place of the workload is the
lines about the machine, `summary` a line for each case.
"""

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

MIB = 1 << 20
# Who does the whole of the work, unlike floors and parts.
PEERS = ("buildah", "podman", "docker", "buildkit")


def seconds(value):
    if value < 0.1:
        return f"{value * 1000:.1f} ms"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def median(result, what):
    return statistics.median(run[what] for run in result["runs"])


def ratio(value, own):
    if not own:
        return ""
    times = value / own
    return f"{times:.2f}" if times < 10 else f"{times:.0f}"


def rows(case):
    """A line of the table for each contender, stave's first."""
    own = next((result for result in case["results"] if result["tool"] == "stave" and result["runs"]), None)
    for result in case["results"]:
        tool, runs = result["tool"], result["runs"]
        if not runs:
            yield f"| {tool} | {result['trouble']} | | | | | |"
            continue
        wall, cpu, memory, written = (median(result, what) for what in ("wall", "cpu", "memory", "written"))
        disk = f"{written / MIB:.1f} MiB" if written < 10 * MIB else f"{written / MIB:.0f} MiB"
        if case["content"]:
            disk += f" ({written / case['content']:.2f})"
        extras = {name: statistics.median(run["extra"][name] for run in runs) for name in runs[0]["extra"]}
        said = ", ".join(f"{value / MIB:.1f} MiB" if name == "size" else f"{value:.0f} {name}" for name, value in extras.items())
        if len(runs) < case["rounds"]:
            said = ", ".join(filter(None, [said, "one run" if len(runs) == 1 else f"{len(runs)} runs"]))
        least, most = min(run["wall"] for run in runs), max(run["wall"] for run in runs)
        spread = f"{seconds(wall)} ({seconds(least)} to {seconds(most)})" if len(runs) > 1 else seconds(wall)
        yield (f"| {tool} | {spread} | {ratio(wall, own and median(own, 'wall'))} | {seconds(cpu)} | "
               f"{memory / MIB:.0f} MiB | {disk} | {said} |")


def table(case):
    head = f"**{case['name']}** (to reach: {case['goal']})\n\n"
    head += "| | wall: median (least to most) | of stave's | CPU | peak memory | written | |\n|---|---|---|---|---|---|---|\n"
    told = case.get("profile", [])
    profile = "\n```text\n" + "\n".join(told) + "\n```\n" if told else ""
    return head + "\n".join(rows(case)) + "\n" + profile


def summary(stored):
    """A line for each case: stave, what is to reach, and the fastest peer that does the same."""
    lines = ["| | | to reach | stave | fastest peer | of stave's |", "|---|---|---|---|---|---|"]
    for case in stored["cases"]:
        walls = {result["tool"]: median(result, "wall") for result in case["results"] if result["runs"]}
        peers = {tool: wall for tool, wall in walls.items() if tool in PEERS}
        best = min(peers, key=peers.get, default=None)
        if "stave" in walls:
            peer = f"{best} {seconds(peers[best])} | {ratio(peers[best], walls['stave'])}" if best else "|"
            lines.append(f"| {case['workload']} | {case['name']} | {case['goal']} | {seconds(walls['stave'])} | {peer} |")
    return "\n".join(lines)


def sections(stored):
    """Text for each marker."""
    found = {"machine": "\n".join([
        f"{stored['machine']}; {stored['date']}; medians of {stored['rounds']} runs" + (", small inputs" if stored["quick"] else "")
        + ".", "", ", ".join(f"{name} {said}" for name, said in stored["versions"].items()) + ".", ""])}
    found["summary"] = summary(stored)
    for case in stored["cases"]:
        found[case["workload"]] = found.get(case["workload"], "") + table(case) + "\n"
    for line in stored["absent"]:
        found["machine"] += line + "\n"
    return {name: text.rstrip("\n") for name, text in found.items()}


def put_into(document, found):
    """The document with what is between its markers replaced, and the names of markers that had nothing new."""
    stale = []

    def replace(match):
        if match[1] not in found:
            stale.append(match[1])
            return match[0]
        return f"<!-- measured: {match[1]} -->\n{found[match[1]]}\n<!-- end -->"

    text = re.sub(r"<!-- measured: (\w+) -->\n.*?<!-- end -->", replace, document, flags=re.DOTALL)
    return text, stale


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--into", type=Path)
    arguments = parser.parse_args()
    stored = [json.loads(results.read_text()) for results in arguments.results]
    cases = sorted((case for one in stored for case in one["cases"]), key=lambda case: int(case["workload"][1:]))
    found = sections({**stored[-1], "cases": cases})
    if arguments.into is None:
        print("\n\n".join(found.values()))
        return
    text, stale = put_into(arguments.into.read_text(), found)
    arguments.into.write_text(text)
    if stale:
        print(f"left as they were: {', '.join(stale)}", file=sys.stderr)


if __name__ == "__main__":
    main()
