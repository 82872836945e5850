"""Fixtures: what the suite is run over, the rigs, and the judgement on every process after every test."""

import faulthandler
import os
import resource
import socket
import sys

import pytest

sys.dont_write_bytecode = True

import net
from processes import BUILD, watch
from rig import Rigs, Setup, Yard
from without_io_uring import io_uring_error

LOOPS = ("uring", "epoll")
DATA_PATH = [Setup(io, pump) for io in LOOPS for pump in ("splice", "uring", "copy")]
CONTROL = [Setup(io, "auto") for io in LOOPS]
# A test that hangs in spite of all bounds ends the run, with the place where it hung.
TEST_SECONDS_MAX = 240
_terminal_fd = None


def pytest_report_header():
    return f"programs: {BUILD}; io_uring: {io_uring_error() or 'yes'}; patience: {net.PATIENCE:g}"


def pytest_configure(config):
    global _terminal_fd
    _terminal_fd = os.dup(2)  # pytest takes fd 2 away while a test runs
    config.addinivalue_line("markers", "over(setups): the setups {io} x {pump} that a test is run over")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def pytest_generate_tests(metafunc):
    """A test that takes `setup`, or a fixture made of one, runs over the control setups unless its module or
    itself says otherwise with @pytest.mark.over(...)."""
    if "setup" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("over")
    setups = mark.args[0] if mark else CONTROL
    metafunc.parametrize("setup", setups, ids=lambda setup: setup.name, scope="function")


@pytest.fixture(autouse=True)
def judgement():
    """Instantiated first, so ended last: looks at every process when all of a test's own are gone."""
    faulthandler.dump_traceback_later(net.patient(TEST_SECONDS_MAX), exit=True, file=_terminal_fd)
    try:
        yield
        watch.judge()
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def loop_checked(setup):
    """Skips what the kernel cannot do, instead of reporting it as a failure of ours."""
    if setup.io == "uring" and io_uring_error():
        pytest.skip(f"this kernel refuses io_uring ({os.strerror(io_uring_error())})")


@pytest.fixture(scope="session")
def rigs(tmp_path_factory):
    kept = Rigs(tmp_path_factory.mktemp("rigs"))
    try:
        yield kept
    finally:
        kept.close()
        watch.judge()


@pytest.fixture
def rig(rigs, setup, loop_checked, judgement):
    """The shared rig of this setup. Not for tests that end a process."""
    rig = rigs.get(setup)
    rig.settle()
    yield rig
    rig.settle()


@pytest.fixture
def yard(tmp_path, setup, loop_checked, judgement):
    """Makes processes for this test only."""
    made = Yard(tmp_path, setup)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def manager(tmp_path):
    """A service manager's end of NOTIFY_SOCKET."""
    class Manager:
        def __init__(self):
            self.path = str(tmp_path / "notify")
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.sock.bind(self.path)
            self.sock.settimeout(0.05)
            self.said = []

        def told(self):
            try:
                while True:
                    self.said += self.sock.recv(4096).decode().splitlines()
            except socket.timeout:
                return self.said

        def told_ready(self):
            return "READY=1" in self.told()

    made = Manager()
    yield made
    made.sock.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the last words of the processes that this test had to do with."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        funcargs = getattr(item, "funcargs", {})
        folders = {funcargs[name].directory for name in ("yard", "rig", "host") if name in funcargs}
        folders.add(funcargs.get("tmp_path"))
        for process in watch.processes:
            if process.directory not in folders:
                continue
            report.sections.append((f"{process.name} {process.pid}", process.describe()))
