"""The one-page table of a result, in Markdown."""

import shlex

from .environment import BUSY_MOST

# These run on as many threads as there are CPUs; README.md says so, too.
ON_ALL_CPUS = ("frp", "frp-plain", "rathole", "bore")
FIGURES = {
    "gbps": ("Gb/s", 1), "cpu_s_per_gb": ("CPU s/GB", 3), "wakeups_per_gb": ("wake-ups/GB", 0),
    "rate_per_s": ("per s", 0), "cpu_us_per_exchange": ("CPU µs each", 1), "cpu_us_per_cycle": ("CPU µs each", 0),
    "p50_us": ("p50 µs", 0), "p99_us": ("p99 µs", 0), "p999_us": ("p99.9 µs", 0), "max_us": ("most µs", 0),
    "base_pss_kb": ("base PSS kB", 0), "base_pss_kb_per_process": ("… per process", 0),
    "held_pss_kb": ("PSS kB with all visitors", 0), "pss_bytes_per_visitor": ("PSS B/visitor", 0),
    "allocations_per_million_messages": ("per million messages", 0),
    "edge_allocations_per_million_messages": ("… edge's half", 0),
    "agent_allocations_per_million_messages": ("… agent's half", 0),
    "allocations_per_connection": ("per connection", 2),
    "edge_allocations_per_connection": ("… edge's half", 2),
    "agent_allocations_per_connection": ("… agent's half", 2),
    "allocations_per_s_idle": ("per s without visitors", 0),
    "idle_visitors": ("idle visitors", 0),
    "p99_alone_us": ("p99 alone µs", 0), "p50_beside_us": ("p50 beside µs", 0), "p99_beside_us": ("p99 beside µs", 0),
    "p99_beside_over_quiet": ("p99 beside/least alone", 1), "bulk_gbps": ("bulk Gb/s", 1),
    "visitor_fin_passes": ("the visitor's FIN", 0), "service_fin_passes": ("the service's FIN", 0),
}


def figure_name(figure):
    return FIGURES.get(figure, (figure, 2))[0]


def figure_text(figure, value):
    return f"{value:,.{FIGURES.get(figure, (figure, 2))[1]}f}"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def goal_rows(result):
    titles = result["workloads"]
    for goal in result["goals"]:
        if goal["workload"] not in titles:
            continue
        against = goal["against"] or "(absolute)"
        wanted = f"{'≥' if goal['relation'] == 'at least' else '≤'} {goal['wanted']:g} {goal['unit']}".strip()
        if goal["stretch"] is not None:
            wanted += f" (stretch {goal['stretch']:g})"
        if goal["value"] is None:
            value, verdict = "–", "not measured"
        else:
            digits = 2 if goal["against"] or goal["value"] < 100 else 0
            value = f"{goal['value']:.{digits}f} ({goal['least']:.{digits}f}–{goal['most']:.{digits}f})"
            verdict = "**missed**" if not goal["met"] else "met, stretch too" if goal["stretch_met"] else "met"
        ours = "" if goal["ours"] == "natrp" else f"{goal['ours']}: "
        yield [ours + titles[goal["workload"]], figure_name(goal["figure"]), against, value, wanted, verdict]


def beside_lines(result):
    if not result.get("beside"):
        return
    yield from ("", "## Beside other builds", "", "`natrp`, with its defaults, divided by each in the same round: "
                "median (least–most). What two copies of one build are apart is noise.", "")
    rows = [[result["workloads"][one["workload"]], figure_name(one["figure"]), one["against"],
             f"{one['value']:.2f} ({one['least']:.2f}–{one['most']:.2f})"] for one in result["beside"]]
    yield from table(["workload", "figure", "against", "ours"], rows)


def fewer_rounds(rows_of, rounds_done):
    """Whose medians are of fewer rounds than the page says: what only one round does, and who failed in others."""
    rounds = {contestant: max(cell["rounds"] for cell in row.values()) for contestant, row in rows_of.items()}
    fewer = {contestant: number for contestant, number in rounds.items() if number < rounds_done}
    if fewer and set(rounds.values()) == {1}:
        yield from ("", "Of one round.")
    elif fewer:
        yield from ("", "Of fewer rounds: " + ", ".join(f"{name} {number}" for name, number in fewer.items()) + ".")


def summary_lines(result):
    for workload, title in result["workloads"].items():
        rows_of = result["summary"].get(workload, {})
        failed = sorted({(run["contestant"], run["error"]) for run in result["runs"]
                         if run["workload"] == workload and "error" in run})
        figures = [figure for figure in FIGURES if any(figure in row for row in rows_of.values())]
        if not figures and not failed:
            continue
        yield ""
        yield f"### {title}"
        yield ""
        rows = []
        for contestant in result["contestants"]:
            row = rows_of.get(contestant, {})
            if not row:
                continue
            cells = [figure_text(figure, row[figure]["median"]) if figure in row else "–" for figure in figures]
            rows.append([contestant, *cells])
        yield from table(["", *map(figure_name, figures)], rows)
        yield from fewer_rounds(rows_of, result["rounds_done"])
        for contestant, error in failed:
            yield ""
            yield f"{contestant} failed: {error}"


def markdown(result):
    """The whole page. `result` as results.py describes it."""
    environment = result["environment"]
    congestion = environment["congestion_control"]
    compared = [goal for goal in result["goals"]
                if goal["value"] is not None and goal["workload"] in result["workloads"]]
    met = sum(1 for goal in compared if goal["met"])
    on_all_cpus = ", ".join(name for name in ON_ALL_CPUS if name in result["contestants"])
    lines = [
        f"# Tunnel bench, suite {result['options']['suite']}, commit {environment['commit']}",
        "",
        f"{environment['date']}, build type {environment['build_type']}, Linux {environment['kernel']}, "
        f"{environment['cpus']} × {environment['cpu']}"
        f"{' (virtual)' if environment['virtual_machine'] else ''}, congestion control {congestion['during']}. "
        f"Medians of {result['rounds_done']} interleaved round{'s' if result['rounds_done'] != 1 else ''} of "
        f"{result['options']['seconds']:g} s a measurement; visitors, service and "
        "contestants share the same CPUs, one worker per process"
        f"{f' (as many threads as CPUs: {on_all_cpus})' if on_all_cpus else ''}. CPU seconds are those of all "
        "processes of a contestant; the direct connection has none.",
        "",
        f"Run as `{shlex.join(['tunnel_bench.py', *result['options']['command']])}`.",
    ]
    if congestion["note"]:
        lines += ["", congestion["note"]]
    if environment["busy_before"] > BUSY_MOST or environment["steal_share"] > 0.02:
        lines += ["", f"The machine was not quiet: {environment['busy_before']:.0%} of its CPUs in use before the run, "
                      f"{environment['steal_share']:.1%} of the time stolen by the host. Do not quote these figures."]
    if result["options"]["quick"]:
        lines += ["", "A quick run: it shows that everything works; its figures are rough."]
    lines += ["", "## Wanted and reached", ""]
    if compared:
        lines += [f"{met} of {len(compared)} goals met. Ratios are ours divided by theirs in the same round: median "
                  "(least–most).", ""]
    lines += table(["workload", "figure", "against", "ours", "wanted", "verdict"], goal_rows(result))
    lines += beside_lines(result)
    lines += ["", "## Medians"]
    lines += summary_lines(result)
    lines += ["", "## Who took part", ""]
    for name, contestant in result["contestants"].items():
        version = f" ({contestant['version']})" if contestant["version"] else ""
        lines.append(f"- {name}: {contestant['label']}{version}")
    for name, reason in {**result["absent"], **result["absent_workloads"]}.items():
        lines.append(f"- {name}: did not take part, {reason}")
    return "\n".join(lines) + "\n"
