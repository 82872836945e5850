"""What the whole-tunnel bench makes of its measurements, on figures that are made up; of a lost half-close, and of a
tunnel that stands still."""

import pathlib
import socket
import sys
import threading

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench"))

from harness import report, results  # noqa: E402
from harness.processes import BenchError, Usage  # noqa: E402
from harness.workloads import Bulk, HalfClose  # noqa: E402


def mixed(number, alone, beside, contestant="natrp"):
    return {"round": number, "workload": "mixed_10_1000", "contestant": contestant,
            "figures": {"p99_alone_us": alone, "p99_beside_us": beside}}


def goal_of(compared, figure):
    return next(one for one in compared if one["figure"] == figure)


def test_a_stall_while_visitors_are_alone_does_not_make_their_wait_beside_bulk_look_better():
    runs = [mixed(0, 300, 1800), mixed(1, 10_000, 1500), mixed(2, 10_000, 2100)]
    goal = goal_of(results.compare(results.with_quiet_ratios(runs), "full"), "p99_beside_over_quiet")
    assert (goal["least"], goal["value"], goal["most"]) == (5.0, 6.0, 7.0)
    assert not goal["met"]


def test_each_contestant_is_measured_by_its_own_quiet_round():
    runs = results.with_quiet_ratios([mixed(0, 300, 1800), mixed(0, 100, 1800, contestant="direct")])
    assert [run["figures"]["p99_beside_over_quiet"] for run in runs] == [6.0, 18.0]


def test_a_measurement_that_failed_or_has_no_visitors_alone_stays_as_it_is():
    runs = [{"round": 0, "workload": "mixed_10_1000", "contestant": "natrp", "error": "not answered"},
            {"round": 0, "workload": "bulk_1_up", "contestant": "natrp", "figures": {"gbps": 30}}]
    assert results.with_quiet_ratios(runs) == runs


def half_close():
    workload = HalfClose()
    workload.PAUSE_S = 0.05
    return workload


def test_a_fin_that_passes_with_its_answer_is_seen():
    first, second = socket.socketpair()
    with first, second:
        assert half_close().answered(first, second)


def test_a_tunnel_that_ends_both_directions_at_the_first_fin_is_seen():
    first, near = socket.socketpair()
    far, second = socket.socketpair()

    def end_both():
        near.recv(1)
        near.close()
        far.close()

    with first, second:
        tunnel = threading.Thread(target=end_both)
        tunnel.start()
        assert not half_close().answered(first, second)
        tunnel.join()


def test_a_tunnel_that_keeps_the_fin_to_itself_is_seen():
    first, near = socket.socketpair()
    far, second = socket.socketpair()
    with first, near, far, second:
        second.settimeout(0.05)
        assert not half_close().answered(first, second)


def test_a_tunnel_that_stands_still_for_the_measured_time_has_failed():
    class Still:
        def measure(self, *_):
            return {"bytes": 0, "gbps": 0, "least_over_most": 0}, Usage()

    with pytest.raises(BenchError, match="not one byte"):
        Bulk(1, "down").measure(Still(), 1)


def test_the_page_says_which_medians_are_of_fewer_rounds():
    def rows(**rounds):
        return {name: {"gbps": {"rounds": number}} for name, number in rounds.items()}

    assert list(report.fewer_rounds(rows(natrp=5, haproxy=5), 5)) == []
    assert list(report.fewer_rounds(rows(natrp=5, haproxy=2), 5))[-1] == "Of fewer rounds: haproxy 2."
    assert list(report.fewer_rounds(rows(natrp=1, haproxy=1), 5))[-1] == "Of one round."


def test_both_suites_want_the_same():
    def wanted(suite):
        return {(one.workload, one.figure, one.against): (one.relation, one.wanted) for one in results.goals_of(suite)}

    full, main = wanted("full"), wanted("main")
    assert {goal: main[goal] for goal in main if goal in full} == {goal: full[goal] for goal in full if goal in main}
    assert ("bulk_1_up", "gbps", "floor") in main and ("allocations", "allocations_per_connection", "") in main
