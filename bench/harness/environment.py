"""Where a result was measured: machine, kernel, settings, commit. And the one setting a run changes for its time."""

import contextlib
import ctypes
import datetime
import functools
import json
import os
import platform
import re
import resource
import socket
import subprocess
import time

CONGESTION = "/proc/sys/net/ipv4/tcp_congestion_control"
FDS_WANTED = 200_000
QUIET_SAMPLE_S = 2
IO_URING_SETUP = 425  # the same on every architecture
IO_URING_PARAMS_BYTES = 120
BUSY_MOST = 0.05  # the share of the CPUs that a machine may use before a run and still be called quiet


def read_text(path, otherwise=""):
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return otherwise


def first_line(command):
    """The first line a command prints, or an empty string when it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        lines = (done.stdout + done.stderr).strip().splitlines()
        return lines[0] if lines else ""
    except (OSError, subprocess.TimeoutExpired):
        return ""


def version_of(command):
    """The first a.b.c that a program says of itself, on whatever line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"\b\d+\.\d+\.\d+\b", done.stdout + done.stderr)
    return found[0] if found else ""


def commit_name(repository):
    """The short commit, with -dirty when the tree differs from it (results themselves do not count)."""
    commit = first_line(["git", "-C", repository, "rev-parse", "--short=12", "HEAD"])
    if not commit or " " in commit or not all(c in "0123456789abcdef" for c in commit):
        return "uncommitted"
    status = subprocess.run(
        ["git", "-C", repository, "status", "--porcelain", "--", ".", ":!bench/results", ":!bench/baseline.json"],
        capture_output=True, text=True, check=False)
    return commit + ("-dirty" if status.stdout.strip() else "")


def build_of(folder, otherwise):
    """(the repository of a build folder, its build type); (`otherwise`, "unknown") when it does not say."""
    info = os.path.join(folder, "meson-info")
    try:
        with open(os.path.join(info, "meson-info.json")) as file:
            source = json.load(file)["directories"]["source"]
        with open(os.path.join(info, "intro-buildoptions.json")) as file:
            options = {one["name"]: one["value"] for one in json.load(file)}
        return source if os.path.isdir(source) else otherwise, options["buildtype"]
    except (OSError, ValueError, LookupError, TypeError):
        return otherwise, "unknown"


def cpu_model():
    for line in read_text("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def cpu_numbers():
    """What tells CPUs apart whose model name a hypervisor shortens."""
    wanted = ("cpu family", "model", "stepping")
    found = dict(line.partition(":")[::2] for line in read_text("/proc/cpuinfo").partition("\n\n")[0].splitlines())
    values = {key.strip(): value.strip() for key, value in found.items()}
    return "/".join(values[key] for key in wanted if key in values)


def cpu_ticks():
    """(all, idle, steal) ticks of the machine so far."""
    fields = [int(field) for field in read_text("/proc/stat").splitlines()[0].split()[1:]]
    return sum(fields[:8]), fields[3] + fields[4], fields[7]


def busy_share(seconds):
    """The share of the CPUs in use while this process sleeps. (A load average still counts what ended a minute ago.)"""
    before = cpu_ticks()
    time.sleep(seconds)
    after = cpu_ticks()
    return 1 - (after[1] - before[1]) / max(after[0] - before[0], 1)


@functools.lru_cache(maxsize=None)
def io_uring_refused():
    """Why no ring can be made here (a container's profile, a setting, an old kernel); empty when one can."""
    libc = ctypes.CDLL(None, use_errno=True)
    ring = libc.syscall(IO_URING_SETUP, 1, ctypes.create_string_buffer(IO_URING_PARAMS_BYTES))
    if ring < 0:
        return os.strerror(ctypes.get_errno())
    os.close(ring)
    return ""


def raise_fd_limit():
    """As many descriptors as this process may have; what it starts inherits them. Returns the number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in ((FDS_WANTED, max(FDS_WANTED, hard)), (hard, hard)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, wanted)
            break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@contextlib.contextmanager
def congestion_control(wanted):
    """Makes `wanted` the system's default for the time of the block, where that is allowed, and puts back what was.

    Yields {"before", "during", "note"} for the result file.
    """
    before = read_text(CONGESTION, "unknown")
    record = {"before": before, "during": before, "note": ""}
    try:
        if before != wanted:
            with open(CONGESTION, "w") as setting:
                setting.write(wanted)
        record["during"] = wanted
    except OSError as error:
        record["note"] = f"The system's default stays {before}: {error.strerror}. " + (
            f"Only the sockets of the visitors and of the service use {wanted}; the contestants' sockets use {before}."
            if congestion_usable(wanted) else f"All sockets use it: the kernel lets no program ask for {wanted}.")
    try:
        yield record
    finally:
        # Another run that ended meanwhile has put back what it found.
        after = read_text(CONGESTION, "unknown")
        if after != record["during"]:
            record["note"] = (f"{record['note']} Somebody made {after} the system's default during this run: do not "
                              "quote these figures.").strip()
        if record["during"] != before:
            with open(CONGESTION, "w") as setting:
                setting.write(before)


def congestion_usable(name):
    """Whether what is started here may ask for it on its own sockets."""
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
            return True
        except OSError:
            return False


def describe(repository, build):
    """All of it, as the `environment` of a result file. What is measured is `build`, whose commit may be another than
    that of `repository`, where the bench is."""
    source, build_type = build_of(build, repository)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit_name(source),
        "build_type": build_type,
        "kernel": platform.release(),
        "cpu": cpu_model(),
        "cpu_numbers": cpu_numbers(),
        "cpus": os.cpu_count(),
        "memory_kb": int(read_text("/proc/meminfo", "MemTotal: 0 kB").split()[1]),
        "virtual_machine": " hypervisor" in read_text("/proc/cpuinfo"),
        "clock_source": read_text("/sys/devices/system/clocksource/clocksource0/current_clocksource", "unknown"),
        "governor": read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "none shown"),
        "io_uring_disabled": read_text("/proc/sys/kernel/io_uring_disabled", "not a setting here"),
        "tcp_rmem": read_text("/proc/sys/net/ipv4/tcp_rmem"),
        "tcp_wmem": read_text("/proc/sys/net/ipv4/tcp_wmem"),
        "pipe_user_pages_soft": read_text("/proc/sys/fs/pipe-user-pages-soft"),
        "user_is_root": os.geteuid() == 0,
        "busy_before": busy_share(QUIET_SAMPLE_S),
    }
