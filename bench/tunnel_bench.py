#!/usr/bin/python3
"""tunnel_bench.py: the whole tunnel beside its peers, in interleaved rounds (make bench-tunnel).

    bench/tunnel_bench.py --build build [--suite main|full] [--quick] [--rounds N] [--seconds S]
                          [--only natrp,floor] [--workloads bulk_1_up,churn_32] [--beside NAME=BUILD]...
                          [--results FOLDER] [--list]

A round runs every workload with every contestant once, each started anew; then comes the next round. Results go to
bench/results/<commit>/<suite>.json, .md and pictures. The exit code is 0 when all that is ours was measured, 1 when a
measurement of ours failed, 2 when nothing could be run; a peer that failed and a missed goal are reported, not errors.

README.md beside this file says how to read the result and how to point at frp, rathole and bore.
"""

import argparse
import glob
import json
import os
import re
import sys
import tempfile
import time

sys.dont_write_bytecode = True

from harness import environment, plots, report, results
from harness.contestants import all_contestants, beside
from harness.processes import MEASUREMENT_ERRORS, unwind_when_ended
from harness.workloads import Tools, all_workloads

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONGESTION = "cubic"
# Defaults by suite: rounds, seconds per measurement, minutes after which no further round begins.
DEFAULTS = {"main": (5, 1.5, 11.0), "full": (5, 2.0, 90.0), "quick": (1, 0.5, 1.6)}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     epilog="Environment: FRPS, FRPC, RATHOLE, BORE and SSHD name binaries.")
    parser.add_argument("--build", default=os.path.join(REPOSITORY, "build"), help="build folder (default: build)")
    parser.add_argument("--suite", choices=("main", "full"), default="main")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that everything works")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default: 5)")
    parser.add_argument("--seconds", type=float, help="of each measurement")
    parser.add_argument("--budget-minutes", type=float, help="no round begins that would end after this time")
    parser.add_argument("--only", default="", help="contestants, separated by commas")
    parser.add_argument("--workloads", default="", help="workloads, separated by commas")
    parser.add_argument("--beside", action="append", default=[],
                        metavar="NAME=BUILD[,io=..][,pump=..][,VARIABLE=VALUE..]",
                        help="another build folder of ours as a contestant NAME, with variables in its environment")
    parser.add_argument("--results", help="folder for the results (default: bench/results/<commit>)")
    parser.add_argument("--list", action="store_true", help="print the contestants and workloads, and end")
    arguments = parser.parse_args()
    rounds, seconds, budget = DEFAULTS["quick" if arguments.quick else arguments.suite]
    arguments.rounds = rounds if arguments.rounds is None else arguments.rounds
    arguments.seconds = seconds if arguments.seconds is None else arguments.seconds
    arguments.budget_minutes = budget if arguments.budget_minutes is None else arguments.budget_minutes
    if arguments.rounds < 1 or not 0.2 <= arguments.seconds <= 60:
        parser.error("--rounds is at least 1, --seconds from 0.2 to 60")
    return arguments


def chosen(everything, names, what):
    """Those whose name is in the list `names`, or all; a name that does not exist ends the program."""
    wanted = [name for name in re.split(r",(?![^[]*\])", names) if name]  # natrp[epoll,auto] is one name
    known = [one.name for one in everything]
    for name in wanted:
        if name not in known:
            sys.exit(f"tunnel_bench: there is no {what} '{name}'; there are: {', '.join(known)}")
    return [one for one in everything if not wanted or one.name in wanted]


class Run:
    """One run of a suite. Life: made -> run_rounds() -> result()."""

    def __init__(self, arguments, tools, contestants, workloads):
        self.arguments = arguments
        self.tools = tools
        self.absent = {one.name: one.missing() for one in contestants if one.missing()}
        self.contestants = [one for one in contestants if not one.missing()]
        self.absent_workloads = {one.name: one.missing(tools) for one in workloads if one.missing(tools)}
        self.workloads = [one for one in workloads if one.name not in self.absent_workloads]
        self.runs = []
        self.rounds_done = 0
        self.once_s = 0.0  # of this round, for workloads that only one round does

    def measurements(self, round_number):
        for workload in self.workloads:
            if workload.once and round_number > 0:
                continue
            # Each round begins with another one: who always comes behind a heavy neighbour may find a slower machine.
            first = round_number % len(self.contestants)
            for contestant in self.contestants[first:] + self.contestants[:first]:
                if workload.suits(contestant):
                    yield workload, contestant

    def run_rounds(self):
        began = time.monotonic()
        longest = 0.0  # round, without what only the first one does
        for round_number in range(self.arguments.rounds):
            round_began = time.monotonic()
            if round_number and round_began - began + longest > self.arguments.budget_minutes * 60:
                print(f"round {round_number + 1} would end after {self.arguments.budget_minutes:g} minutes: left out")
                break
            for workload, contestant in self.measurements(round_number):
                self.measure(round_number, workload, contestant)
            longest = max(longest, time.monotonic() - round_began - self.once_s)
            self.once_s = 0.0
            self.rounds_done += 1

    def measure(self, round_number, workload, contestant):
        began = time.monotonic()
        entry = {"round": round_number, "workload": workload.name, "contestant": contestant.name}
        try:
            with workload.session(self.tools, contestant) as session:
                entry["figures"] = workload.measure(session, self.arguments.seconds)
            text = ", ".join(f"{report.figure_name(name)} {report.figure_text(name, value)}"
                             for name, value in entry["figures"].items() if name in report.FIGURES)
        except MEASUREMENT_ERRORS as error:
            entry["error"] = str(error)
            text = f"FAILED: {error}"
        self.once_s += time.monotonic() - began if workload.once else 0.0
        self.runs.append(entry)
        progress = f"[{round_number + 1}/{self.arguments.rounds}]"
        print(f"{progress} {workload.name:<22} {contestant.name:<18} {text}", flush=True)

    def result(self, environment_record, suite):
        runs = results.with_quiet_ratios(self.runs)
        return {
            "environment": environment_record,
            "options": {"suite": suite, "quick": self.arguments.quick, "rounds": self.arguments.rounds,
                        "seconds": self.arguments.seconds, "command": sys.argv[1:]},
            "rounds_done": self.rounds_done,
            "contestants": {one.name: {"label": one.label, "version": one.version()} for one in self.contestants},
            "workloads": {one.name: one.title for one in self.workloads},
            "absent": self.absent,
            "absent_workloads": self.absent_workloads,
            "runs": runs,
            "summary": results.summarize(runs),
            "goals": results.compare(runs, suite),
        }


def others_of_ours(texts, tools, contestants):
    """The contestants that --beside names; a wrong one ends the program."""
    try:
        others = [beside(tools, text) for text in texts]
    except ValueError as error:
        sys.exit(f"tunnel_bench: --beside {error}")
    names = [one.name for one in contestants]
    for one in others:
        if one.name in names:
            sys.exit(f"tunnel_bench: --beside: there is a contestant '{one.name}' already")
        names.append(one.name)
    return others


def write(result, folder, prefix):
    # What an earlier run of this suite left here would look like pictures of this one.
    for picture in glob.glob(os.path.join(glob.escape(folder), prefix + "-*")):
        if picture.endswith((".svg", ".png")):
            os.remove(picture)
    json_path = os.path.join(folder, prefix + ".json")
    page_path = os.path.join(folder, prefix + ".md")
    with open(json_path, "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    with open(page_path, "w") as file:
        file.write(report.markdown(result))
    pictures = plots.draw_all(result, folder, prefix)
    with open(page_path) as file:
        print("\n" + file.read())
    print(f"written: {json_path}, {page_path}, {len(pictures)} pictures"
          + ("" if pictures else " (python3-matplotlib is not installed)"))


def main():
    unwind_when_ended()
    arguments = parse_arguments()
    tools = Tools(os.path.abspath(arguments.build), environment.raise_fd_limit())
    contestants = chosen(all_contestants(tools, arguments.suite), arguments.only, "contestant")
    others = others_of_ours(arguments.beside, tools, all_contestants(tools, arguments.suite))
    if others and results.OURS not in [one.name for one in contestants]:
        sys.exit(f"tunnel_bench: --beside compares with '{results.OURS}': let it take part (--only)")
    contestants += others
    workloads = chosen(all_workloads(arguments.suite), arguments.workloads, "workload")
    if arguments.list:
        for one in contestants:
            print(f"{one.name:<20} {one.missing() or one.label}")
        for one in workloads:
            print(f"{one.name:<26} {one.title}" + (f" ({one.missing(tools)})" if one.missing(tools) else ""))
        return 0
    if tools.missing():
        print(f"tunnel_bench: {tools.missing()}: build it with -Dbench=true first", file=sys.stderr)
        return 2

    run = Run(arguments, tools, contestants, workloads)
    if not run.contestants or not run.workloads:
        print(f"tunnel_bench: nothing can be run: {run.absent or run.absent_workloads}", file=sys.stderr)
        return 2
    for name, reason in {**run.absent, **run.absent_workloads}.items():
        print(f"{name} does not take part: {reason}")
    record = environment.describe(REPOSITORY, tools.build)
    prefix = "quick" if arguments.quick else arguments.suite
    folder = arguments.results or os.path.join(REPOSITORY, "bench", "results", record["commit"])
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # behind an hour of measuring it would be too late to say so
    except OSError as error:
        print(f"tunnel_bench: no results can be written to {folder}: {error.strerror}", file=sys.stderr)
        return 2
    record["fd_limit"] = tools.fd_limit
    ticks_before = environment.cpu_ticks()
    with environment.congestion_control(CONGESTION) as congestion:
        record["congestion_control"] = congestion
        if congestion["during"] != CONGESTION and environment.congestion_usable(CONGESTION):
            tools.congestion = CONGESTION
        run.run_rounds()
    ticks = [now - before for now, before in zip(environment.cpu_ticks(), ticks_before)]
    record["steal_share"] = ticks[2] / max(ticks[0], 1)

    result = run.result(record, arguments.suite)
    result["beside"] = results.beside(run.runs, [one.name for one in others])
    write(result, folder, prefix)
    ours = {one.name for one in run.contestants if one.is_ours}
    ours_failed = any("error" in entry and entry["contestant"] in ours for entry in run.runs)
    return 1 if ours_failed else 0


if __name__ == "__main__":
    sys.exit(main())
