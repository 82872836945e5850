"""System calls and instructions of a group of processes, counted from outside: by perf where the kernel lets it, by
strace otherwise. Both attach to running processes and detach again."""

import os
import re
import shutil
import signal
import subprocess
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
