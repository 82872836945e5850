"""How a run of the bench ends, whatever ends it; and what its gate and its report say of figures that are made up."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BENCH = REPOSITORY / "bench"
sys.path.insert(0, str(BENCH))

import bench_check  # noqa: E402
from harness import environment  # noqa: E402
from harness.processes import ENDING_SIGNALS, undisturbed  # noqa: E402


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_a_signal_that_comes_while_processes_are_stopped_waits_until_all_are(number):
    done = []
    before = signal.signal(number, lambda *_: sys.exit(1))
    try:
        with pytest.raises(SystemExit):
            with undisturbed():
                os.kill(os.getpid(), number)
                done.append("all")
    finally:
        signal.signal(number, before)
    assert done == ["all"]


def ended_by(number, before=""):
    program = (f"import os, sys; sys.path.insert(0, {str(BENCH)!r})\n"
               f"from harness.processes import signal, unwind_when_ended\n{before}\nunwind_when_ended()\n"
               f"try: os.kill(os.getpid(), {int(number)})\nfinally: print('unwound')")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip(), done.returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_terminated_or_loses_its_terminal_stops_what_it_started(number):
    assert ended_by(number) == ("unwound", 128 + number)


def test_a_run_that_shall_outlive_its_terminal_does():
    assert ended_by(signal.SIGHUP, "signal.signal(signal.SIGHUP, signal.SIG_IGN)") == ("unwound", 0)


def failures_of_the_gate(baseline, measured, left_out=()):
    check = bench_check.Check(None, 1, 1)
    check.left_out.update(left_out)
    for name, value in measured.items():
        check.series[name] = [value]
    figures = {name: {"value": value, "better": "lower", "tolerance": 0.15} for name, value in baseline.items()}
    return bench_check.compare({"figures": figures}, check)


def test_what_a_machine_counts_in_another_way_than_the_baseline_is_no_regression(capsys):
    assert failures_of_the_gate({"bulk_1_up.syscalls_per_gb.perf": 9}, {"bulk_1_up.syscalls_per_gb.strace": 90}) == 0
    assert "left out: it was counted by perf" in capsys.readouterr().out


def test_what_gets_worse_or_is_not_measured_fails_the_gate():
    assert failures_of_the_gate({"bulk_1_up.syscalls_per_gb.perf": 9}, {"bulk_1_up.syscalls_per_gb.perf": 11}) == 1
    assert failures_of_the_gate({"bulk_1_up.syscalls_per_gb.perf": 9}, {"bulk_1_up.wakeups_per_gb": 1}) == 1
    assert failures_of_the_gate({"bulk_1_up.wakeups_per_gb": 9}, {"bulk_1_up.syscalls_per_gb.strace": 1}) == 1


def test_what_no_instrument_is_there_for_is_left_out():
    absent = {"bulk_1_up.syscalls_per_gb": "neither perf nor strace may trace here"}
    assert failures_of_the_gate({"bulk_1_up.syscalls_per_gb.perf": 9}, {}, absent) == 0


def reported(folder, then, now, failed=()):
    """The lines of the report on figures of ours, {workload: {figure: median}}."""
    paths = []
    for name, figures in (("then", then), ("now", now)):
        summary = {workload: {"natrp": {figure: {"median": value} for figure, value in row.items()}}
                   for workload, row in figures.items()}
        result = {"environment": {"commit": name, "date": "", "kernel": "", "cpus": 2, "cpu": "",
                                  "congestion_control": {"during": "cubic"}},
                  "rounds_done": 1, "summary": summary, "workloads": {**figures, **dict(failed)},
                  "runs": [{"workload": workload, "contestant": "natrp", "error": why} for workload, why in failed]}
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(result))
    done = subprocess.run([REPOSITORY / "scripts" / "bench_report.py", *paths], capture_output=True, text=True,
                          timeout=20, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def test_allocations_where_there_were_none_are_reported_as_worse(tmp_path):
    lines = reported(tmp_path, {"allocations": {"allocations_per_connection": 0}},
                     {"allocations": {"allocations_per_connection": 3}})
    assert lines[-1] == ["allocations", "allocations_per_connection", "0", "3", "from", "0", "worse"]


def test_a_half_close_that_is_lost_is_reported_as_worse(tmp_path):
    lines = reported(tmp_path, {"half_close": {"visitor_fin_passes": 1}}, {"half_close": {"visitor_fin_passes": 0}})
    assert lines[-1] == ["half_close", "visitor_fin_passes", "1", "0", "-100.0%", "worse"]


def test_a_workload_that_fails_now_does_not_vanish_from_the_report(tmp_path):
    figures = {"bulk_1_up": {"gbps": 30}}
    lines = reported(tmp_path, {**figures, "churn_32": {"rate_per_s": 9000}}, figures, [("churn_32", "reset")])
    assert " ".join(lines[-1]) == "churn_32 gives no figures any more: reset"


@pytest.mark.parametrize("wanted, said", [("none-such", "All sockets use it"), ("reno", "Only the sockets of the")])
def test_what_congestion_control_the_ends_have_is_said_rightly(tmp_path, monkeypatch, wanted, said):
    monkeypatch.setattr(environment, "CONGESTION", str(tmp_path / "gone" / "setting"))
    with environment.congestion_control(wanted) as record:
        assert record["during"] == "unknown" and said in record["note"]


def test_a_baseline_that_is_written_without_a_figure_says_what_is_not_checked_any_more(tmp_path, capsys):
    before = {"figures": {"allocations.edge_allocations_per_connection": {"value": 0}}}
    check = bench_check.Check(None, 1, 1)
    check.left_out["allocations"] = "of 14 allocations made, 13 were counted"
    bench_check.write_baseline(tmp_path / "baseline.json", [before], before, check, {"cpu": "", "busy_before": 0})
    assert "not checked any more: of 14 allocations made" in capsys.readouterr().out


def test_another_run_that_puts_back_its_congestion_control_is_noticed(tmp_path, monkeypatch):
    setting = tmp_path / "setting"
    setting.write_text("cubic")
    monkeypatch.setattr(environment, "CONGESTION", str(setting))
    with environment.congestion_control("cubic") as record:
        setting.write_text("bbr")
    assert "Somebody made bbr" in record["note"] and setting.read_text() == "bbr"
    with environment.congestion_control("cubic") as record:
        assert setting.read_text() == "cubic"
    assert record == {"before": "bbr", "during": "cubic", "note": ""} and setting.read_text() == "bbr"


@pytest.mark.parametrize("answer, said", [("EPERM", "Operation not permitted"), ("ENOSYS", "Function not implemented")])
def test_what_needs_io_uring_does_not_take_part_where_there_is_none(tmp_path, answer, said):
    for program in ("natrp-engine", "natrp", "natrpctl"):
        (tmp_path / program).write_text("")
    program = (f"import sys; sys.path.insert(0, {str(BENCH)!r})\n"
               "from harness.contestants import Natrp\nfrom harness.workloads import Tools\n"
               f"tools = Tools({str(tmp_path)!r}, 1000)\n"
               "for io in ('auto', 'uring', 'epoll'): print(Natrp(tools, io).missing())")
    without = pathlib.Path(__file__).with_name("without_io_uring.py")
    done = subprocess.run([sys.executable, without, answer, sys.executable, "-c", program], capture_output=True,
                          text=True, timeout=20, check=True)
    ours, uring, epoll = done.stdout.split("\n")[:3]
    assert ours == "" and said in uring and "natrp itself has epoll" in epoll


def test_a_page_names_the_commit_of_what_is_measured_and_not_of_the_bench(tmp_path):
    info = tmp_path / "build" / "meson-info"
    info.mkdir(parents=True)
    (info / "meson-info.json").write_text(json.dumps({"directories": {"source": str(tmp_path)}}))
    (info / "intro-buildoptions.json").write_text(json.dumps([{"name": "buildtype", "value": "debug"}]))
    assert environment.build_of(tmp_path / "build", "here") == (str(tmp_path), "debug")
    assert environment.build_of(tmp_path / "none", "here") == ("here", "unknown")
