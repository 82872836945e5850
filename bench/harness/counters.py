"""System calls and instructions of a group of processes, counted from outside: by perf where the kernel lets it, by
strace otherwise. Both attach to running processes and detach again. Allocations are counted by libcount_alloc.so, which
a process is started with."""

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from .processes import BenchError, tree_of

ATTACH_S = 0.5


def perf_counts(event):
    """Whether perf can count `event` here."""
    if not shutil.which("perf"):
        return False
    done = subprocess.run(["perf", "stat", "-x", ";", "-e", event, "true"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and re.search(r"^\d+;", done.stderr, re.MULTILINE) is not None


class PerfCounter:
    """Life: with PerfCounter(roots, event, folder) as counter: ... ; then counter.count."""

    def __init__(self, roots, event, folder):
        self.roots, self.event = roots, event
        self.output = os.path.join(folder, "perf.txt")
        self.count = None

    def __enter__(self):
        pids = ",".join(map(str, tree_of(self.roots)))
        self.perf = subprocess.Popen(["perf", "stat", "-x", ";", "-e", self.event, "-p", pids, "-o", self.output],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(ATTACH_S)
        return self

    def __exit__(self, kind, *_):
        self.perf.send_signal(signal.SIGINT)
        self.perf.wait(20)
        if kind is not None:
            return
        with open(self.output) as file:
            found = re.search(r"^(\d+);", file.read(), re.MULTILINE)
        if not found:
            raise BenchError(f"perf counted no {self.event}")
        self.count = int(found[1])


class StraceCounter:
    """The same through strace -c. It slows the traced processes down by far: only what it counts is of use."""

    def __init__(self, roots, folder):
        self.roots = roots
        self.output = os.path.join(folder, "strace.txt")
        self.count = None

    def __enter__(self):
        targets = [word for pid in tree_of(self.roots) for word in ("-p", str(pid))]
        self.strace = subprocess.Popen(["strace", "-c", "-f", "-q", "-o", self.output, *targets],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(ATTACH_S)
        return self

    def __exit__(self, kind, *_):
        self.strace.send_signal(signal.SIGINT)
        _, errors = self.strace.communicate(timeout=20)
        if kind is not None:
            return
        with open(self.output) as file:
            found = re.search(r"^\s*100\.00\s+\S+\s+\S*\s+(\d+).*total$", file.read(), re.MULTILINE)
        if not found:
            raise BenchError(f"strace counted nothing: {errors.strip()}")
        self.count = int(found[1])


SYSCALL_METHODS = ("perf", "strace")


def syscall_method():
    """'perf', 'strace', or the reason why system calls cannot be counted here, as (method, reason)."""
    if perf_counts("raw_syscalls:sys_enter"):
        return "perf", ""
    if not shutil.which("strace"):
        return "", "perf cannot count raw_syscalls:sys_enter here, and strace is not installed"
    done = subprocess.run(["strace", "-c", "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return "", f"neither perf nor strace may trace here: {done.stderr.strip()[:120]}"
    return "strace", ""


def syscall_counter(method, roots, folder):
    return PerfCounter(roots, "raw_syscalls:sys_enter", folder) if method == "perf" else StraceCounter(roots, folder)


class AllocationCounter:
    """Counts what the processes ask their allocator for that are started with environment(name). One per session."""

    def __init__(self, library, folder):
        self.library, self.folder = library, folder

    def path(self, name):
        return os.path.join(self.folder, f"allocations.{name}")

    def environment(self, name, base=None):
        return dict(os.environ if base is None else base, LD_PRELOAD=self.library, NATRP_COUNT_ALLOC=self.path(name))

    def read(self, name):
        try:
            with open(self.path(name), "rb") as file:
                return int.from_bytes(file.read(8), sys.byteorder)
        except OSError as error:
            raise BenchError(f"nothing counts the allocations of {name}: {error}") from error


@functools.lru_cache(maxsize=None)
def allocations_uncountable(library, control):
    """Why allocations cannot be counted here, or an empty text: `control`, a program that knows how many it makes, is
    counted without them and with a thousand of each kind."""
    for path in (library, control):
        if not os.path.exists(path):
            return f"{path} is not built"
    counted, made = [], []
    with tempfile.TemporaryDirectory(prefix="tunnel-bench-") as folder:
        counter = AllocationCounter(library, folder)
        for rounds in (0, 1000):
            done = subprocess.run([control, str(rounds)], env=counter.environment(str(rounds)), capture_output=True,
                                  text=True, timeout=20, check=False)
            if done.returncode != 0:
                return f"{os.path.basename(control)} ended with code {done.returncode}: {done.stderr.strip()[-200:]}"
            made.append(int(done.stdout))
            counted.append(counter.read(str(rounds)))
    if made[1] == 0 or counted[1] - counted[0] != made[1] - made[0]:
        return f"of {made[1] - made[0]} allocations made, {counted[1] - counted[0]} were counted"
    return ""
