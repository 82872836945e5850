#!/usr/bin/python3
"""bench_check.py: the gate against getting slower (make bench-check).

    bench/bench_check.py --build build [--rounds N] [--seconds S] [--baseline bench/baseline.json] [--write]

It measures figures that depend little on the machine: ours divided by the floor (two bare splice relays) in the same
round, memory per idle visitor, wake-ups per GB, allocations, system calls per GB and, without the brief wait, system
calls and instructions (where perf can count them) per exchange. Each is compared with the baseline of the same CPU
model, or, where there is none, with the first one, and the page says so. One that is worse by more than its tolerance
(a share of the baseline) and its slack (an amount, for figures near 0) fails the check. A workload with such a figure
is measured a second time as often before it is believed. Better ones are reported, so that the baseline can follow.
--write makes the measured figures the baseline of this CPU model; tolerances and slacks are those that it, or else the
first one, states.

Exit code: 0 nothing got worse; 1 something did, or could not be measured though the baseline has it; 2 the check could
not be run. A figure that this machine has no instrument for is left out, with the reason.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys

sys.dont_write_bytecode = True

from harness import counters, environment
from harness.contestants import Floor, Natrp
from harness.processes import MEASUREMENT_ERRORS, unwind_when_ended
from harness.workloads import GB, Allocations, Bulk, Churn, Exchange, IdleMemory, Session, Tools

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(HERE)
CONGESTION = "cubic"
COUNTED_BYTES = 2_000_000_000


@dataclasses.dataclass(frozen=True)
class Judgement:
    """How far a figure may get worse: by the share `tolerance` of the baseline, and by `slack` in any case."""
    better: str  # "higher" or "lower"
    tolerance: float
    slack: float = 0.0


# figure of a workload -> (name of the ratio to the floor, judgement)
RATIOS = {
    "gbps": ("gbps_over_floor", Judgement("higher", 0.15)),
    "cpu_s_per_gb": ("cpu_per_gb_over_floor", Judgement("lower", 0.15)),
    "rate_per_s": ("rate_over_floor", Judgement("higher", 0.15)),
    "cpu_us_per_exchange": ("cpu_per_exchange_over_floor", Judgement("lower", 0.15)),
    "cpu_us_per_cycle": ("cpu_per_connection_over_floor", Judgement("lower", 0.15)),
}
# figures taken as they are. Wake-ups depend on how the scheduler lets the ends alternate: hence the wide tolerance. The
# data path shall allocate nothing after warm-up: the slack is what a heartbeat more or less gives.
ABSOLUTE = {
    "wakeups_per_gb": Judgement("lower", 1.00),
    "pss_bytes_per_visitor": Judgement("lower", 0.25),
    "base_pss_kb": Judgement("lower", 0.25),
    "edge_allocations_per_million_messages": Judgement("lower", 0.50, 200),
    "agent_allocations_per_million_messages": Judgement("lower", 0.50, 200),
    "edge_allocations_per_connection": Judgement("lower", 0.20, 0.1),
    "agent_allocations_per_connection": Judgement("lower", 0.20, 0.1),
}
COUNTED = {
    "syscalls_per_gb": Judgement("lower", 0.40),
    "syscalls_per_exchange": Judgement("lower", 0.15),
    "instructions_per_exchange": Judgement("lower", 0.10),
}

# How often each is counted. How many completions a turn has, and with them the system calls of 64 connections, differs
# from one start of the processes to the next: 0.36 to 1.4 an exchange in 18 of them.
COUNTS = 3

INTERLEAVED = [Bulk(1, "up"), Bulk(1, "down"), Bulk(8, "up"), Bulk(8, "down"), Exchange(1), Exchange(64), Churn(32)]
ALONE = [IdleMemory(1000), Allocations()]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", default=os.path.join(REPOSITORY, "build"), help="build folder (default: build)")
    parser.add_argument("--baseline", default=os.path.join(HERE, "baseline.json"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--write", action="store_true", help="make the measured figures the baseline")
    return parser.parse_args()


class Check:
    """Measures. Life: made -> measure_all() -> figures (name -> value) and left_out (name -> reason)."""

    def __init__(self, tools, rounds, seconds):
        self.tools, self.rounds, self.seconds = tools, rounds, seconds
        self.series = {}
        self.left_out = {}
        self.judgements = {}

    @property
    def figures(self):
        return {name: statistics.median(values) for name, values in sorted(self.series.items())}

    def add(self, workload, figure, value, judgement):
        name = f"{workload}.{figure}"
        self.series.setdefault(name, []).append(value)
        self.judgements[name] = judgement

    def measure_all(self):
        self.measure_rounds(INTERLEAVED)
        for workload in ALONE:
            self.measure_alone(workload)
        self.count_all()

    def measure_rounds(self, workloads):
        for number in range(self.rounds):
            for workload in workloads:
                self.measure_beside_floor(workload, ours_first=number % 2 == 1)
            print(f"round {number + 1} of {self.rounds} done", flush=True)

    def measure_alone(self, workload):
        reason = workload.missing(self.tools)
        if reason:
            self.left_out[workload.name] = reason
            return
        with workload.session(self.tools, Natrp(self.tools)) as session:
            for figure, value in workload.measure(session, self.seconds).items():
                if figure in ABSOLUTE:
                    self.add(workload.name, figure, value, ABSOLUTE[figure])

    def measure_again(self, baseline):
        """The workloads of which a figure got worse, as many rounds once more: one busy moment is no regression."""
        worse = [name for name, entry in baseline["figures"].items()
                 if name in self.figures and verdict(entry, self.figures[name])[0]]
        counted = [name for name in worse if name.split(".")[1] in COUNTED]
        doubtful = {name.split(".")[0] for name in worse if name not in counted}
        workloads = [workload for workload in INTERLEAVED if workload.name in doubtful]
        if workloads:
            print(f"worse at first sight, measured again: {', '.join(workload.name for workload in workloads)}")
            self.measure_rounds(workloads)
        for workload in ALONE:
            if workload.name in doubtful:
                print(f"worse at first sight, measured again: {workload.name}")
                self.measure_alone(workload)
        if counted:
            print(f"worse at first sight, counted again: {', '.join(counted)}")
            self.count_all()

    def measure_beside_floor(self, workload, ours_first):
        figures = {}
        pair = [Floor(self.tools), Natrp(self.tools)]
        for contestant in reversed(pair) if ours_first else pair:
            with Session(self.tools, contestant) as session:
                figures[contestant.name] = workload.measure(session, self.seconds)
        for figure, ours in figures["natrp"].items():
            floor = figures["floor"].get(figure)
            if figure in RATIOS and floor:
                name, judgement = RATIOS[figure]
                self.add(workload.name, name, ours / floor, judgement)
            if figure in ABSOLUTE:
                self.add(workload.name, figure, ours, ABSOLUTE[figure])

    def count_all(self):
        for _ in range(COUNTS):
            self.count_once()

    def count_once(self):
        """System calls and instructions, each in a run of its own: counting slows down what is counted."""
        bulks = [("bulk_1_up", "up"), ("bulk_1_down", "down")]
        exchanges = [("exchange_64_1", 1), ("exchange_64_64", 64)]
        method, reason = counters.syscall_method()
        for name, direction in bulks:
            figure = f"syscalls_per_gb.{method}"
            if not method:
                self.left_out[f"{name}.syscalls_per_gb"] = reason
                continue
            with Session(self.tools, Natrp(self.tools)) as session:
                with counters.syscall_counter(method, session.contestant.roots(), session.folder) as counter:
                    result, _ = session.measure("bulk", "--direction", direction, "--bytes", COUNTED_BYTES)
            self.add(name, figure, counter.count / (result["bytes"] / GB), COUNTED["syscalls_per_gb"])
        for name, connections in exchanges:
            figure = f"syscalls_per_exchange.{method}"
            if method:
                self.count_exchanges(name, figure, connections, COUNTED["syscalls_per_exchange"],
                                     lambda roots, folder: counters.syscall_counter(method, roots, folder))
            else:
                self.left_out[f"{name}.syscalls_per_exchange"] = reason
            if counters.perf_counts("instructions"):
                self.count_exchanges(name, "instructions_per_exchange", connections,
                                     COUNTED["instructions_per_exchange"],
                                     lambda roots, folder: counters.PerfCounter(roots, "instructions", folder))
            else:
                self.left_out[f"{name}.instructions_per_exchange"] = "perf cannot count instructions on this machine"

    def count_exchanges(self, name, figure, connections, judgement, make_counter):
        # Without the looks before a sleep: how many fit into 50 µs is the machine's figure, not ours.
        with Session(self.tools, Natrp(self.tools, brief_wait="off")) as session:
            # Nor what the coming of the visitors takes: on a slow machine it is shared by fewer exchanges.
            with session.swarm("exchange", "--wait", "on", "--connections", connections,
                               "--seconds", self.seconds) as swarm:
                swarm.wait_for_line()
                with make_counter(session.contestant.roots(), session.folder) as counter:
                    swarm.say("measure")
                    result = swarm.wait_for_result()
            session.contestant.require_alive()
        self.add(name, figure, counter.count / max(result["exchanges"], 1), judgement)


def read_baselines(path):
    """One per CPU model, the first one for all others."""
    with open(path) as file:
        return json.load(file)["baselines"]


def of_this_cpu(baselines, record):
    """The baseline of exactly this model, or None."""
    return next((one for one in baselines if one["environment"]["cpu"] == record["cpu"]
                 and one["environment"]["cpu_numbers"] == record["cpu_numbers"]), None)


def write_baseline(path, baselines, before, check, record):
    figures = {name: {"value": float(f"{value:.4g}"), **dataclasses.asdict(check.judgements[name])}
               for name, value in check.figures.items()}
    stated = before or (baselines[0] if baselines else {"figures": {}})
    for name, entry in stated["figures"].items():
        if name in figures:
            figures[name].update({word: entry[word] for word in ("tolerance", "slack") if word in entry})
    now = {"environment": record, "rounds": check.rounds, "seconds": check.seconds, "figures": figures,
           "left_out": check.left_out}
    baselines = [now if one is before else one for one in baselines] + ([] if before else [now])
    with open(path, "w") as file:
        json.dump({"baselines": baselines}, file, indent=1)
        file.write("\n")
    print(f"written: {path}, {len(figures)} figures of {record['cpu']}")
    for name in sorted(set(stated["figures"]) - set(figures)):
        print(f"{name}: not in it, and not checked any more: {why_left_out(name, check) or 'it was not measured'}")
    if record["busy_before"] > environment.BUSY_MOST:
        print(f"the machine was not quiet: {record['busy_before']:.0%} of its CPUs in use before: no good baseline")


def allowed_change(entry):
    return abs(entry["value"]) * entry["tolerance"] + entry.get("slack", 0.0)


def verdict(entry, value):
    """(worse beyond what is allowed, sentence)"""
    change = value - entry["value"] if entry["better"] == "lower" else entry["value"] - value
    allowed = allowed_change(entry)
    return change > allowed, "WORSE" if change > allowed else "better: consider --write" if -change > allowed else "ok"


def why_left_out(name, check):
    """The reason why a figure of the baseline was not measured; empty when it should have been."""
    figure, _, method = name.rpartition(".")
    counted = [other for other in counters.SYSCALL_METHODS if f"{figure}.{other}" in check.figures]
    if method in counters.SYSCALL_METHODS and counted:
        return f"it was counted by {method}, this run counts by {counted[0]}, and the two are different figures"
    return next((reason for key, reason in check.left_out.items() if name.startswith(key)), "")


def compare(baseline, check):
    """Prints the table; returns how many figures fail."""
    measured = check.figures
    failed = 0
    print(f"{'figure':<52} {'baseline':>10} {'now':>10} {'change':>8} {'limit':>10}  verdict")
    for name, entry in sorted(baseline["figures"].items()):
        if name not in measured:
            reason = why_left_out(name, check)
            failed += 0 if reason else 1
            print(f"{name:<52} {entry['value']:>10.4g} {'–':>10} {'':>8} {'':>10}  "
                  + (f"left out: {reason}" if reason else "NOT MEASURED, though the baseline has it"))
            continue
        worse, sentence = verdict(entry, measured[name])
        failed += worse
        change = (measured[name] - entry["value"]) / entry["value"] if entry["value"] else 0.0
        limit = entry["value"] + allowed_change(entry) * (-1 if entry["better"] == "higher" else 1)
        print(f"{name:<52} {entry['value']:>10.4g} {measured[name]:>10.4g} {change:>+8.1%} "
              f"{limit:>10.4g}  {sentence}")
    for name in sorted(set(measured) - set(baseline["figures"])):
        print(f"{name:<52} {'–':>10} {measured[name]:>10.4g} {'':>8} {'':>10}  new: not in the baseline")
    for name, reason in check.left_out.items():
        print(f"{name}: left out, {reason}")
    return failed


def main():
    unwind_when_ended()
    arguments = parse_arguments()
    tools = Tools(os.path.abspath(arguments.build), environment.raise_fd_limit())
    missing = tools.missing() or Natrp(tools).missing() or Floor(tools).missing()
    if missing:
        print(f"bench_check: {missing}: build it with -Dbench=true first", file=sys.stderr)
        return 2
    record = environment.describe(REPOSITORY, tools.build)
    baselines, own, baseline = [], None, None
    if not arguments.write or os.path.exists(arguments.baseline):
        try:
            baselines = read_baselines(arguments.baseline)
            own = of_this_cpu(baselines, record)
            baseline = None if arguments.write else own or baselines[0]
        except (OSError, ValueError, LookupError, TypeError) as error:
            print(f"bench_check: {arguments.baseline} has no baseline ({type(error).__name__}: {error}); make one "
                  "with --write on a commit that is known to be good", file=sys.stderr)
            return 2
    check = Check(tools, arguments.rounds, arguments.seconds)
    with environment.congestion_control(CONGESTION) as congestion:
        record["congestion_control"] = congestion
        if congestion["during"] != CONGESTION and environment.congestion_usable(CONGESTION):
            tools.congestion = CONGESTION
        try:
            check.measure_all()
            if baseline:
                check.measure_again(baseline)
        except MEASUREMENT_ERRORS as error:
            print(f"bench_check: {error}", file=sys.stderr)
            return 1
    if arguments.write:
        write_baseline(arguments.baseline, baselines, own, check, record)
        return 0
    before = baseline["environment"]
    print(f"\nbaseline: commit {before['commit']}, Linux {before['kernel']}, {before['cpus']} × {before['cpu']}; "
          f"now: commit {record['commit']}, Linux {record['kernel']}, {record['cpus']} × {record['cpu']}")
    if own is None:
        print("there is none of this CPU: exchanges differ by a quarter and more from one model to another; --write "
              "adds one, on a commit that is known to be good")
    if environment.io_uring_refused():
        print(f"ours runs with epoll here, the baselines are of io_uring: {environment.io_uring_refused()}")
    if record["busy_before"] > environment.BUSY_MOST:
        print(f"the machine was not quiet: {record['busy_before']:.0%} of its CPUs in use before the check. What is "
              "worse may be the neighbours' doing")
    failed = compare(baseline, check)
    print(f"\n{failed} of {len(baseline['figures'])} figures are worse than allowed" if failed
          else f"\nnone of {len(baseline['figures'])} figures is worse than allowed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
