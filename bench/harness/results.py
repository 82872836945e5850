"""A result: every measurement of a run, medians over its rounds, and how ours compares with the others.

The file is one JSON object: environment, options, contestants, workloads, runs (one entry per measurement), summary
(workload -> contestant -> figure -> median, least, most, rounds), goals (see compare()) and beside (see beside()).
"""

import dataclasses
import statistics

OURS = "natrp"


@dataclasses.dataclass(frozen=True)
class Goal:
    """`figure` of `workload`, ours divided by that of `against` (or as it is when `against` is empty)."""
    workload: str
    figure: str
    against: str
    relation: str  # "at least" or "at most"
    wanted: float
    stretch: float = None
    unit: str = ""
    ours: str = OURS


def goals_of(suite):
    """Those of suite full; of them suite main has what its contestants allow, and some of its own."""
    goals = []

    def goal(*arguments, **options):
        goals.append(Goal(*arguments, **options))

    for streams in (1, 8):
        for direction in ("up", "down"):
            bulk = f"bulk_{streams}_{direction}"
            goal(bulk, "gbps", "floor", "at least", 0.95, 1.05)
            goal(bulk, "cpu_s_per_gb", "floor", "at most", 1.10, 0.95)
            # Set when splice-auto was thought to splice; held against what copies and what splices.
            goal(bulk, "cpu_s_per_gb", "haproxy", "at most", 0.30)
            goal(bulk, "cpu_s_per_gb", "haproxy-splice", "at most", 0.30)
            goal(bulk, "cpu_s_per_gb", "nginx", "at most", 0.45)
            goal(bulk, "gbps", "frp-plain", "at least", 1.7)
            goal(bulk, "cpu_s_per_gb", "frp-plain", "at most", 0.35)
            goal(bulk, "gbps", "rathole", "at least", 2.4)
            goal(bulk, "gbps", OURS, "at least", 0.95, ours="natrp[epoll,auto]")
    goal("exchange_64_64", "rate_per_s", "haproxy", "at least", 1.25, 1.5)
    goal("exchange_64_64", "rate_per_s", "frp-plain", "at least", 1.4)
    goal("exchange_64_64", "rate_per_s", "rathole", "at least", 1.5)
    goal("exchange_64_1", "p50_us", "haproxy", "at most", 1.0, 0.85)
    goal("exchange_64_1", "p99_us", "haproxy", "at most", 1.0, 0.85)
    goal("churn_32", "rate_per_s", "haproxy", "at least", 1.0, 1.3)
    goal("churn_32", "rate_per_s", "frp-plain", "at least", 3.0)
    goal("mixed_10_1000", "p99_beside_over_quiet", "", "at most", 3.0, 2.0)
    goal("idle_1000", "pss_bytes_per_visitor", "", "at most", 1024, 512, unit="B")
    goal("idle_1000", "base_pss_kb_per_process", "", "at most", 6_000, 4_000, unit="kB")
    # Beyond what the same seconds cost without a visitor. A heartbeat at the edge of them makes it a handful.
    goal("allocations", "allocations_per_million_messages", "", "at most", 0)
    goal("allocations", "allocations_per_connection", "", "at most", 0)
    for direction in ("up", "down"):
        for streams in (1, 8):
            goal(f"bare_cable_bulk_{streams}_{direction}", "gbps", "floor", "at least", 0.9)
        for streams in (1, 100):
            goal(f"rtt_bulk_{streams}_{direction}", "gbps", "direct", "at least", 0.95)
            goal(f"line_bulk_{streams}_{direction}", "gbps", "direct", "at least", 0.95)
    if suite == "full":
        return goals
    goals = [one for one in goals if one.against in ("", "floor", "haproxy", "haproxy-splice", "nginx")]
    for bulk in ("bulk_1_up", "bulk_1_down", "bulk_8_up", "bulk_8_down"):
        goal(bulk, "gbps", "haproxy", "at least", 2.0)
    goal("exchange_64_1", "rate_per_s", "haproxy", "at least", 1.0)
    for connections in (1, 64):
        goal(f"exchange_64_{connections}", "cpu_us_per_exchange", "haproxy", "at most", 1.0)
    return goals


def summarize(runs):
    """workload -> contestant -> figure -> {median, least, most, rounds}; failed measurements give nothing."""
    values = {}
    for run in runs:
        if "figures" not in run:
            continue
        for figure, value in run["figures"].items():
            place = values.setdefault(run["workload"], {}).setdefault(run["contestant"], {})
            place.setdefault(figure, []).append(value)
    return {workload: {contestant: {figure: {"median": statistics.median(series), "least": min(series),
                                             "most": max(series), "rounds": len(series)}
                                    for figure, series in figures.items()}
                       for contestant, figures in contestants.items()}
            for workload, contestants in values.items()}


def by_round(runs, workload, contestant, figure):
    return {run["round"]: run["figures"][figure] for run in runs
            if run["workload"] == workload and run["contestant"] == contestant and figure in run.get("figures", {})}


def with_quiet_ratios(runs):
    """The runs, and in those of mixed p99_beside_over_quiet: the p99 beside bulk, divided by the least p99 alone that
    the contestant had in any round. A host that takes processors away for milliseconds can only raise a p99 alone, and
    makes the quotient of that round look better than it is."""
    quiet = {}
    for workload, contestant in {(run["workload"], run["contestant"]) for run in runs}:
        quiet[workload, contestant] = min(by_round(runs, workload, contestant, "p99_alone_us").values(), default=None)

    def completed(run):
        alone = quiet[run["workload"], run["contestant"]]
        if not alone or "figures" not in run:
            return run
        ratio = run["figures"]["p99_beside_us"] / alone
        return {**run, "figures": {**run["figures"], "p99_beside_over_quiet": ratio}}

    return [completed(run) for run in runs]


def ratios(runs, workload, figure, ours, against):
    """Ours divided by theirs, round by round: the two were measured within seconds of each other."""
    mine, theirs = by_round(runs, workload, ours, figure), by_round(runs, workload, against, figure)
    return [mine[number] / theirs[number] for number in sorted(mine) if theirs.get(number)]


def compare(runs, suite):
    """One entry per goal: {..., "value", "least", "most", "met"}; value is None when it was not measured."""
    compared = []
    for goal in goals_of(suite):
        if goal.against:
            series = ratios(runs, goal.workload, goal.figure, goal.ours, goal.against)
        else:
            series = list(by_round(runs, goal.workload, goal.ours, goal.figure).values())
        entry = dataclasses.asdict(goal)
        entry["value"] = statistics.median(series) if series else None
        entry["least"], entry["most"] = (min(series), max(series)) if series else (None, None)
        entry["met"] = meets(goal.relation, entry["value"], goal.wanted)
        entry["stretch_met"] = meets(goal.relation, entry["value"], goal.stretch)
        compared.append(entry)
    return compared


# What two versions are compared by.
BESIDE_FIGURES = ("gbps", "cpu_s_per_gb", "rate_per_s", "cpu_us_per_exchange", "cpu_us_per_cycle", "p50_us", "p99_us",
                  "pss_bytes_per_visitor", "base_pss_kb_per_process", "p99_alone_us", "p50_beside_us", "p99_beside_us",
                  "bulk_gbps")


def beside(runs, names):
    """One entry per workload, other build of ours and figure: `natrp`, with its defaults, divided by it, in the same
    round."""
    compared = []
    for workload in dict.fromkeys(run["workload"] for run in runs):
        for name in names:
            for figure in BESIDE_FIGURES:
                series = ratios(runs, workload, figure, OURS, name)
                if series:
                    compared.append({"workload": workload, "figure": figure, "against": name, "rounds": len(series),
                                     "value": statistics.median(series), "least": min(series), "most": max(series)})
    return compared


def meets(relation, value, wanted):
    if value is None or wanted is None:
        return None
    return value >= wanted if relation == "at least" else value <= wanted
