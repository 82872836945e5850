"""How a run of the bench ends, whatever ends it."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

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
