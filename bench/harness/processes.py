"""Processes of a bench run: started with their output in a file, measured through /proc, ended by their pid."""

import contextlib
import dataclasses
import os
import random
import signal
import socket
import subprocess
import sys
import time

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Below the ephemeral range, so that no outgoing connection of the run takes a port before its owner binds it.
PORT_RANGE = (15000, 32000)
# What ends a run: a person, whoever started it, the terminal that is gone.
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class BenchError(Exception):
    """A contestant or a measurement failed; the text says what, for the result file and the person."""


# What a measurement may end with, all of it told in a sentence.
MEASUREMENT_ERRORS = (BenchError, OSError, ValueError, subprocess.SubprocessError)


def unwind_when_ended():
    """A run that is ended must stop what it started and put the system's settings back: let the blocks unwind."""
    for number in ENDING_SIGNALS:
        # SIGINT is an exception already; what is ignored (nohup) stays so.
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda caught, _: sys.exit(128 + caught))


@contextlib.contextmanager
def undisturbed():
    """What ends a run waits until the block is over, for this thread and for what it starts: a second Ctrl-C must not
    end the stopping of processes half-way."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def free_port():
    """A TCP port of 127.0.0.1 that nobody has just now."""
    for _ in range(200):
        port = random.randint(*PORT_RANGE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise BenchError(f"no free port between {PORT_RANGE[0]} and {PORT_RANGE[1]} in 200 attempts")


def free_host(port):
    """An address of 127/8 on which nobody has `port`: for a program that listens on no other port."""
    for _ in range(200):
        host = f"127.{random.randint(64, 127)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
                return host
            except OSError:
                continue
    raise BenchError(f"somebody has port {port} on every address of 127/8 that was tried")


class Process:
    """One started program. Its standard output and error go to `log_path`, unless `pipe` asks for the output."""

    def __init__(self, arguments, log_path, pipe=False, stdin=subprocess.DEVNULL, env=None):
        self.name = os.path.basename(arguments[0])
        self.log_path = log_path
        with open(log_path, "ab") as log:
            out = subprocess.PIPE if pipe else log
            self.popen = subprocess.Popen(arguments, stdin=stdin, stdout=out, stderr=log, text=True, env=env)

    @property
    def pid(self):
        return self.popen.pid

    def log_tail(self):
        try:
            with open(self.log_path, errors="replace") as log:
                return " | ".join(log.read().strip().splitlines()[-4:])
        except OSError:
            return ""

    def require_alive(self):
        code = self.popen.poll()
        if code is not None:
            raise BenchError(f"{self.name} ended with code {code}: {self.log_tail()}")

    def stop(self, grace_s=4):
        """SIGTERM, and SIGKILL for whoever does not listen."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        for stream in (self.popen.stdout, self.popen.stdin):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()


def tree_of(roots):
    """The pids of `roots` and of all that descend from them."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as stat:
                    parents[int(entry)] = int(stat.read().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
    found = set(roots)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found and pid not in found}
        found |= more
        grown = bool(more)
    return sorted(found)


@dataclasses.dataclass
class Usage:
    """What a group of processes had used at one moment, all their threads included."""
    cpu_s: float = 0.0
    voluntary_switches: int = 0
    involuntary_switches: int = 0

    @staticmethod
    def of(roots):
        usage = Usage()
        for pid in tree_of(roots):
            try:
                with open(f"/proc/{pid}/stat") as stat:
                    fields = stat.read().rpartition(")")[2].split()
                usage.cpu_s += (int(fields[11]) + int(fields[12])) / TICKS_PER_S
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/status") as status:
                        for line in status:
                            if line.startswith("voluntary_ctxt"):
                                usage.voluntary_switches += int(line.split()[1])
                            elif line.startswith("nonvoluntary_ctxt"):
                                usage.involuntary_switches += int(line.split()[1])
            except OSError:
                continue  # ended since the tree was read
        return usage

    def since(self, earlier):
        return Usage(self.cpu_s - earlier.cpu_s, self.voluntary_switches - earlier.voluntary_switches,
                     self.involuntary_switches - earlier.involuntary_switches)


def pss_kb(roots):
    """Proportional set size of a group of processes: shared pages are divided among those that share them."""
    total = 0
    for pid in tree_of(roots):
        try:
            with open(f"/proc/{pid}/smaps_rollup") as rollup:
                total += sum(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
        except OSError as error:
            raise BenchError(f"cannot read the memory of process {pid}: {error}") from error
    return total


def wait_until(condition, timeout_s, what, watched=()):
    """Polls `condition` every 10 ms; fails when a watched process ends or the time is over."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        for process in watched:
            process.require_alive()
        if time.monotonic() > deadline:
            tails = "; ".join(f"{process.name}: {process.log_tail()}" for process in watched)
            raise BenchError(f"{what} did not happen within {timeout_s} s ({tails})")
        time.sleep(0.01)


def accepts(port, host="127.0.0.1"):
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def echoes(port, host="127.0.0.1"):
    """Whether one byte sent there comes back: the whole path stands."""
    try:
        with socket.create_connection((host, port), timeout=1) as visitor:
            visitor.settimeout(1)
            visitor.sendall(b"E")
            return visitor.recv(1) == b"E"
    except OSError:
        return False
