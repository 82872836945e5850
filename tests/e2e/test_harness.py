"""The harness measured by itself: the cases of this suite pass through a plain relay, and each of its checks sees
the defect that it is there for. A suite that cannot fail proves nothing."""

import re
import sys

import pytest

import processes
import test_half_close
import test_reset
import test_stream
from net import free_ports, loopback_address, patient, wait_until
from relay import ClosesBothOnFin, DropsLastByte, FlipsABit, SwapsBlocks
from rig import RelayRig, Setup
from sockets import RESET, Content, Received, Task, check_received, exchange

DATA_PATH_CASES = [
    test_stream.test_a_request_reaches_the_service_and_its_answer_the_visitor,
    test_stream.test_the_service_is_reached_before_the_visitor_says_a_word,
    test_stream.test_writes_of_one_byte_arrive_in_order,
    test_stream.test_every_size_arrives_whole_in_both_directions_at_once,
    test_stream.test_thirty_streams_at_once_do_not_mix,
    test_stream.test_visitors_that_do_not_read_stop_nobody_else,
    test_half_close.test_a_fin_without_a_byte_before_it_is_carried,
    test_half_close.test_a_fin_is_not_carried_into_the_other_direction,
    test_half_close.test_the_last_bytes_before_fin_reach_a_receiver_that_reads_late,
    test_reset.test_the_service_sees_the_bytes_and_then_the_reset_of_its_visitor,
    test_reset.test_the_visitor_sees_the_bytes_and_then_the_reset_of_the_service,
    test_reset.test_bytes_before_a_reset_reach_a_receiver_that_reads_late,
    test_reset.test_a_reset_of_an_idle_connection_is_carried,
    test_reset.test_a_receiver_that_resets_ends_the_sender,
    test_reset.test_who_has_finished_sees_the_reset_of_the_other_end,
]


@pytest.fixture
def relay_rig():
    made = []

    def make(**options):
        made.append(RelayRig(**options))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


@pytest.mark.parametrize("case", DATA_PATH_CASES, ids=lambda case: case.__name__.removeprefix("test_"))
def test_a_plain_relay_passes(relay_rig, case):
    case(relay_rig())


def test_a_plain_relay_carries_a_reset_after_fin(relay_rig):
    for by_visitor in (True, False):
        assert test_reset.reset_while_half_closed(relay_rig(), by_visitor) < 10


# (the defect, the case that has to see it, what the case has to say about it)
CANARIES = {
    "the last byte up is dropped": (
        {"up_type": DropsLastByte}, lambda rig: exchange(*rig.pair(), Content(70_000), Content(1)),
        r"the service got 69999 of 70000 bytes \(\+1 missing\), then FIN"),
    "the last byte down is dropped": (
        {"down_type": DropsLastByte}, lambda rig: exchange(*rig.pair(), Content(1), Content(1_000_000)),
        r"the visitor got 999999 of 1000000 bytes"),
    "the last byte is dropped, and every size is tried": (
        {"down_type": DropsLastByte}, test_stream.test_every_size_arrives_whole_in_both_directions_at_once,
        r"the visitor got 0 of 1 bytes"),
    "the last byte before a half-close is dropped": (
        {"up_type": DropsLastByte}, lambda rig: test_half_close.half_close(*rig.pair(), 10_000),
        r"the service got 99999 of 100000 bytes"),
    "a bit is flipped": (
        {"up_type": FlipsABit}, lambda rig: exchange(*rig.pair(), Content(200_000), Content(0)),
        r"the service got 200000 bytes, but not the ones that were sent"),
    "two blocks are swapped": (
        {"down_type": SwapsBlocks}, lambda rig: exchange(*rig.pair(), Content(0), Content(500_000)),
        r"the visitor got 500000 bytes, but not the ones that were sent"),
    "RST becomes FIN": (
        {"rst_as_fin": True}, test_reset.test_the_service_sees_the_bytes_and_then_the_reset_of_its_visitor,
        r"the service saw FIN after the last byte, expected RST"),
    "RST after FIN becomes nothing": (
        {"rst_as_fin": True}, lambda rig: test_reset.reset_while_half_closed(rig, True, seconds=1),
        r"the service was told of no RST"),
    "one FIN closes both directions": (
        {"up_type": ClosesBothOnFin}, lambda rig: test_half_close.half_close(*rig.pair(), 1_000_000),
        r"the visitor got \d+ of 1000000 bytes|Broken pipe|reset by peer"),
}


@pytest.mark.parametrize("defect", CANARIES)
def test_the_suite_sees_that(relay_rig, defect):
    options, case, said = CANARIES[defect]
    with pytest.raises((AssertionError, ConnectionResetError, BrokenPipeError)) as caught:
        case(relay_rig(**options))
    assert re.search(said, str(caught.value)), f"it failed for another reason: {caught.value}"


def test_a_check_compares_length_bytes_and_ending():
    content = Content(1000, 5)
    check_received(Received(1000, content.sha256, "FIN"), content)
    for wrong in (Received(999, content.sha256, "FIN"), Received(1000, Content(1000, 6).sha256, "FIN"),
                  Received(1000, content.sha256, RESET)):
        with pytest.raises(AssertionError):
            check_received(wrong, content)


def test_content_is_the_same_however_it_is_cut():
    content = Content(40_000_000, 7)  # longer than the ring
    whole = bytes(content)
    assert b"".join(content.chunks(4096)) == whole == b"".join(content.chunks(10_000_019))
    assert content.slice(16_777_000, 5000) == whole[16_777_000:16_782_000]
    assert bytes(content.after(3)) == whole[3:]


def test_a_transfer_that_fails_in_its_thread_fails_the_test():
    with pytest.raises(ZeroDivisionError):
        Task(lambda: 1 / 0).result()
    with pytest.raises(AssertionError, match=f"not within {patient(0.05):g} s: never"):
        wait_until(lambda: False, 0.05, "never")


def test_ports_are_free_and_in_a_row():
    ports = free_ports(loopback_address(), 40)
    assert ports == list(range(ports[0], ports[0] + 40)) and ports[-1] < 65536


# --- processes -------------------------------------------------------------------------------------------

def python(tmp_path, code):
    return processes.Process("python", [sys.executable, "-c", code], tmp_path)


def problem_of(process):
    """What the judgement would say, without failing this test."""
    processes.watch.processes.remove(process)
    process._popen.wait(10)
    return process.problem()


@pytest.mark.parametrize("code, said", [
    ("import os; os.abort()", "crashed with SIGABRT"),
    ("import ctypes; ctypes.string_at(0)", "crashed with SIGSEGV"),
    ("raise SystemExit(3)", "ended by itself"),
    ("raise SystemExit(0)", "ended by itself"),
    ("import sys; sys.exit('==7==ERROR: AddressSanitizer: heap-use-after-free')", "a sanitizer reported"),
    ("import sys; sys.exit('WARNING: ThreadSanitizer: data race (pid=7)')", "a sanitizer reported"),
    ("import sys; sys.exit('==7==ERROR: LeakSanitizer: detected memory leaks')", "a sanitizer reported"),
    ("import sys; sys.exit('engine/base/fd.cc:7:3: runtime error: signed integer overflow')", "a sanitizer reported")])
def test_a_process_that_goes_wrong_fails_its_test(tmp_path, code, said):
    assert said in problem_of(python(tmp_path, code))


def test_an_expected_exit_does_not_hide_a_crash_or_a_report(tmp_path):
    for code in ("import os; os.abort()", "import sys; sys.exit('ERROR: LeakSanitizer: detected memory leaks')"):
        process = python(tmp_path, code)
        process.wait_exit()
        assert problem_of(process)


def test_the_ordinary_ends_of_a_process_are_no_problem(tmp_path):
    asleep = ("import signal, time, sys; signal.signal(15, lambda *_: sys.exit({})); print('up', flush=True); "
              "time.sleep(60)")
    good, bad, killed, ended = [python(tmp_path, code) for code in
                                (asleep.format(0), asleep.format(1), asleep.format(0), "raise SystemExit(2)")]
    for process in (good, bad, killed):
        process.wait_for("up", stream="out")
    good.stop()
    with pytest.raises(AssertionError, match="exit code 1 instead of 0"):
        bad.stop()
    killed.kill()
    assert ended.wait_exit() == 2
    assert not any(problem_of(process) for process in (good, bad, killed, ended))


def test_a_process_that_ends_is_not_awaited_for_its_words(tmp_path):
    process = python(tmp_path, "print('something else')")
    with pytest.raises(AssertionError, match="ended without saying"):
        process.wait_for("ready", seconds=30)
    process.wait_exit()


def test_descriptors_are_counted_by_kind(tmp_path):
    process = python(tmp_path, "import socket, os, time; a = [socket.socket() for _ in range(7)]; "
                               "b = [os.pipe() for _ in range(3)]; print('up', flush=True); time.sleep(60)")
    process.wait_for("up", stream="out")
    held = process.descriptors()
    process.kill()
    assert (held["socket"], held["pipe"]) == (7, 6)


def test_the_flags_of_a_process_are_spelled_as_people_spell_them():
    assert processes.flags({"pipes_max": 2, "check": True, "admin": None, "tag": ["a", "b"]}) == [
        "--pipes-max", "2", "--check", "--tag", "a", "--tag", "b"]
    assert processes.flags(Setup("epoll", "copy").flags)[:4] == ["--io", "epoll", "--pump", "copy"]
