"""The pictures of a result, as SVG and PNG, drawn by matplotlib."""

import os


def import_pyplot():
    """matplotlib.pyplot without a display; None when python3-matplotlib is not installed."""
    try:
        import matplotlib
        matplotlib.use("Agg")
        from matplotlib import pyplot
        return pyplot
    except ImportError:
        return None


def grouped_bars(pyplot, result, title, unit, workloads, figure, path, log=False):
    """One group per workload, one bar per contestant, whiskers from the least to the most round."""
    summary = result["summary"]
    workloads = [workload for workload in workloads
                 if any(figure in row for row in summary.get(workload, {}).values())]
    contestants = [name for name in result["contestants"]
                   if any(figure in summary[workload].get(name, {}) for workload in workloads)]
    if not workloads or not contestants:
        return []
    picture, axes = pyplot.subplots(figsize=(max(6.4, 1.3 + 0.28 * len(workloads) * (len(contestants) + 1)), 4.2))
    width = 0.85 / len(contestants)
    colours = colours_of(pyplot, result)
    for place, name in enumerate(contestants):
        cells = [summary[workload].get(name, {}).get(figure) for workload in workloads]
        points = [(index + (place - (len(contestants) - 1) / 2) * width, cell)
                  for index, cell in enumerate(cells) if cell is not None]
        heights = [cell["median"] for _, cell in points]
        whiskers = [[cell["median"] - cell["least"] for _, cell in points],
                    [cell["most"] - cell["median"] for _, cell in points]]
        axes.bar([x for x, _ in points], heights, width, yerr=whiskers, capsize=1.5, label=name,
                 color=colours[name], error_kw={"linewidth": 0.7})
    axes.set_xticks(range(len(workloads)))
    axes.set_xticklabels([wrap(result["workloads"][workload]) for workload in workloads], fontsize=7)
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10)
    if log:
        axes.set_yscale("log")
        plain_numbers(axes)
    axes.grid(axis="y", linewidth=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=7, ncol=2)
    return save(pyplot, picture, path)


def latency_percentiles(pyplot, result, title, workload, path):
    """p50, p99 and p99.9 of one workload, one line per contestant."""
    figures = [("p50_us", "p50"), ("p99_us", "p99"), ("p999_us", "p99.9")]
    rows = {name: row for name, row in result["summary"].get(workload, {}).items() if "p999_us" in row}
    if not rows:
        return []
    picture, axes = pyplot.subplots(figsize=(6.4, 4.2))
    colours = colours_of(pyplot, result)
    for name in result["contestants"]:
        if name in rows:
            axes.plot([label for _, label in figures], [rows[name][figure]["median"] for figure, _ in figures],
                      marker="o", linewidth=1.2, label=name, color=colours[name])
    axes.set_yscale("log")
    plain_numbers(axes)
    axes.set_ylabel("µs")
    axes.set_title(title, fontsize=10)
    axes.grid(linewidth=0.3, which="both")
    axes.legend(fontsize=7)
    return save(pyplot, picture, path)


def colours_of(pyplot, result):
    """The same colour for a contestant in every picture of a result."""
    names = list(result["contestants"])
    palette = pyplot.get_cmap("tab10" if len(names) <= 10 else "tab20").colors
    return {name: palette[place % len(palette)] for place, name in enumerate(names)}


def plain_numbers(axes):
    """2000 instead of a power of ten without a digit, on a logarithmic axis."""
    from matplotlib.ticker import ScalarFormatter
    for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatter(ScalarFormatter())
    axes.tick_params(axis="y", which="both", labelsize=7)


def wrap(text):
    return text.replace(", ", ",\n")


def save(pyplot, picture, path):
    picture.tight_layout()
    paths = [f"{path}.svg", f"{path}.png"]
    for one in paths:
        picture.savefig(one, dpi=130)
    pyplot.close(picture)
    return paths


def draw_all(result, folder, prefix):
    """Returns the paths that were written; none without matplotlib."""
    pyplot = import_pyplot()
    if pyplot is None:
        return []
    place = os.path.join(folder, prefix)
    names = list(result["workloads"])
    bulk = [name for name in names if name.startswith("bulk_")]
    exchange = [name for name in names if name.startswith("exchange_") and "_open_" not in name]
    churn = [name for name in names if name.startswith("churn_")]
    idle = [name for name in names if name in ("idle_1000",)]
    paths = []
    paths += grouped_bars(pyplot, result, "Throughput", "Gb/s", bulk, "gbps", f"{place}-throughput")
    for prefix, where in (("cable_", "over a cable of MTU 1500"), ("bare_cable_", "over a cable without offloads"),
                          ("rtt_", "with a round trip of 50 ms"),
                          ("line_", "over a line of 10 Gb/s with a round trip of 50 ms")):
        there = [name for name in names if name.startswith(f"{prefix}bulk_")]
        paths += grouped_bars(pyplot, result, f"Throughput {where}", "Gb/s", there, "gbps",
                              f"{place}-{prefix.replace('_', '-')}throughput")
    paths += grouped_bars(pyplot, result, "CPU of the contestant", "CPU seconds per GB", bulk, "cpu_s_per_gb",
                          f"{place}-cpu-per-gb")
    paths += grouped_bars(pyplot, result, "Exchanges", "per second", exchange, "rate_per_s", f"{place}-exchange-rate")
    paths += grouped_bars(pyplot, result, "CPU per exchange", "µs", exchange, "cpu_us_per_exchange",
                          f"{place}-cpu-per-exchange")
    paths += grouped_bars(pyplot, result, "New connections", "per second", churn, "rate_per_s",
                          f"{place}-connection-rate")
    paths += grouped_bars(pyplot, result, "Memory per idle visitor, all processes", "bytes (PSS)", idle,
                          "pss_bytes_per_visitor", f"{place}-memory", log=True)
    for workload in exchange:
        paths += latency_percentiles(pyplot, result, f"Latency: {result['workloads'][workload]}", workload,
                                     f"{place}-latency-{workload}")
    return paths
