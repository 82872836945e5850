#!/usr/bin/python3
"""bench_report.py: then against now, from two result files of bench/tunnel_bench.py.

    scripts/bench_report.py THEN.json NOW.json [--contestant natrp] [--figure gbps]

THEN and NOW may also be folders under bench/results (a commit's name is enough): their main.json is read. Without any,
the two newest results are compared. For each figure of the contestant it prints the medians, the change, and the same
change divided by that of the floor in the same workload: a machine that was slower today slows both.
"""

import argparse
import glob
import json
import os
import signal
import sys

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RESULTS = os.path.join(REPOSITORY, "bench", "results")
LOWER_IS_BETTER = ("cpu_", "wakeups_", "preemptions_", "p50", "p99", "max_us", "base_pss", "held_pss", "pss_bytes",
                   "allocations_", "edge_allocations_", "agent_allocations_")
HIGHER_IS_BETTER = ("gbps", "rate_per_s", "bulk_gbps", "least_over_most")
REFERENCE = "floor"
NOTABLE = 0.05


def locate(name):
    """The result file that a person means by a path, a folder or a commit."""
    for path in (name, os.path.join(name, "main.json"), os.path.join(RESULTS, name, "main.json"),
                 os.path.join(RESULTS, name, "full.json")):
        if os.path.isfile(path):
            return path
    sys.exit(f"bench_report: there is no result '{name}': expected a file, or a folder with main.json in it, for "
             f"example one of {RESULTS}")


def newest_two():
    # By the date in them: a checkout gives all files its own.
    found = sorted(glob.glob(os.path.join(RESULTS, "*", "main.json")),
                   key=lambda path: load(path)["environment"].get("date", ""))
    if len(found) < 2:
        sys.exit(f"bench_report: there are {len(found)} results in {RESULTS}, two are needed: run 'make bench-tunnel' "
                 "on two commits, or name two files")
    return found[-2:]


def load(path):
    try:
        with open(path) as file:
            result = json.load(file)
        result["summary"], result["environment"]["commit"]
        return result
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(f"bench_report: {path} is not a result of tunnel_bench.py: {error}")


def describe(title, path, result):
    environment = result["environment"]
    print(f"{title}: {path}: commit {environment['commit']}, {environment['date']}, Linux {environment['kernel']}, "
          f"{environment['cpus']} × {environment['cpu']}, {environment['congestion_control']['during']}, "
          f"{result['rounds_done']} rounds")


def better_word(figure, change):
    """What a change means, when it is large enough to mean something."""
    if abs(change) < NOTABLE:
        return ""
    if figure.startswith(LOWER_IS_BETTER):
        return "better" if change < 0 else "worse"
    if figure.startswith(HIGHER_IS_BETTER):
        return "better" if change > 0 else "worse"
    return ""


def median(result, workload, contestant, figure):
    return result["summary"].get(workload, {}).get(contestant, {}).get(figure, {}).get("median")


def rows(then, now, contestant, only_figure):
    for workload in now["summary"]:
        for figure in now["summary"][workload].get(contestant, {}):
            before, after = (median(result, workload, contestant, figure) for result in (then, now))
            if (only_figure and figure != only_figure) or before is None:
                continue
            change = after / before - 1 if before else 0.0
            floor_before, floor_after = (median(result, workload, REFERENCE, figure) for result in (then, now))
            relative = None
            if before and floor_before and floor_after:
                relative = (after / before) / (floor_after / floor_before) - 1
            yield workload, figure, before, after, change, relative


def main():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the reader may be `head`
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("then", nargs="?")
    parser.add_argument("now", nargs="?")
    parser.add_argument("--contestant", default="natrp")
    parser.add_argument("--figure", default="", help="only this one, for example gbps")
    arguments = parser.parse_args()
    if arguments.then and not arguments.now:
        parser.error("name two results, or none for the two newest")
    paths = [locate(arguments.then), locate(arguments.now)] if arguments.then else newest_two()
    then, now = map(load, paths)
    describe("then", paths[0], then)
    describe("now ", paths[1], now)
    changes = list(rows(then, now, arguments.contestant, arguments.figure))
    if not changes:
        sys.exit(f"bench_report: the two results have no such figure of '{arguments.contestant}' in common")
    print(f"\n{arguments.contestant}:")
    print(f"{'workload':<26} {'figure':<24} {'then':>11} {'now':>11} {'change':>8} {'vs floor':>9}")
    for workload, figure, before, after, change, relative in changes:
        relative_text = "" if relative is None else f"{relative:+.1%}"
        judged = better_word(figure, change if relative is None else relative)
        figures = f"{before:>11.4g} {after:>11.4g} {change:>+8.1%} {relative_text:>9}"
        print(f"{workload:<26} {figure:<24} {figures}  {judged}".rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
