#!/usr/bin/python3
"""bench_report.py: then against now, from two result files of bench/tunnel_bench.py.

    scripts/bench_report.py THEN.json NOW.json [--contestant natrp] [--figure gbps]

THEN and NOW may also be folders under bench/results (a commit's name is enough): their main.json is read, or else their
full.json. Without any, the newest result is compared with the one before it of the same suite. For each figure of the
contestant it prints the medians, the change, and the same change divided by that of the floor in the same workload: a
machine that was slower today slows both. A workload that ran and gives no figures any more is told, too.
"""

import argparse
import glob
import json
import math
import os
import signal
import sys

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RESULTS = os.path.join(REPOSITORY, "bench", "results")
LOWER_IS_BETTER = ("cpu_", "wakeups_", "preemptions_", "p50", "p99", "max_us", "base_pss", "held_pss", "pss_bytes",
                   "allocations_", "edge_allocations_", "agent_allocations_")
HIGHER_IS_BETTER = ("gbps", "rate_per_s", "bulk_gbps", "least_over_most", "visitor_fin_passes", "service_fin_passes")
REFERENCE = "floor"
SUITES = ("main.json", "full.json")
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
    found = sorted((path for suite in SUITES for path in glob.glob(os.path.join(RESULTS, "*", suite))),
                   key=lambda path: load(path)["environment"].get("date", ""))
    found = [path for path in found if os.path.basename(path) == os.path.basename(found[-1])]
    if len(found) < 2:
        sys.exit(f"bench_report: there are not two results of the newest one's suite in {RESULTS}: run 'make "
                 "bench-tunnel' on two commits, or name two files")
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
            change = after / before - 1 if before else math.inf if after else 0.0
            floor_before, floor_after = (median(result, workload, REFERENCE, figure) for result in (then, now))
            relative = None
            if before and floor_before and floor_after:
                relative = (after / before) / (floor_after / floor_before) - 1
            yield workload, figure, before, after, change, relative


def lost(then, now, contestant):
    """(workload, why) of those that gave figures then, ran now, and gave none."""
    for workload in now.get("workloads", {}):
        if then["summary"].get(workload, {}).get(contestant) and not now["summary"].get(workload, {}).get(contestant):
            errors = [run["error"] for run in now.get("runs", []) if "error" in run
                      and (run["workload"], run["contestant"]) == (workload, contestant)]
            yield workload, errors[0] if errors else "it did not take part"


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
    missing = list(lost(then, now, arguments.contestant))
    if not changes and not missing:
        sys.exit(f"bench_report: the two results have no such figure of '{arguments.contestant}' in common")
    print(f"\n{arguments.contestant}:")
    print(f"{'workload':<26} {'figure':<24} {'then':>11} {'now':>11} {'change':>8} {'vs floor':>9}")
    for workload, figure, before, after, change, relative in changes:
        relative_text = "" if relative is None else f"{relative:+.1%}"
        judged = better_word(figure, change if relative is None else relative)
        change_text = "from 0" if math.isinf(change) else f"{change:+.1%}"
        figures = f"{before:>11.4g} {after:>11.4g} {change_text:>8} {relative_text:>9}"
        print(f"{workload:<26} {figure:<24} {figures}  {judged}".rstrip())
    for workload, why in missing:
        print(f"{workload:<26} gives no figures any more: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
