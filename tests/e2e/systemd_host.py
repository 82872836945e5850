"""A host of its own for the units of packaging/: a real systemd as process 1 of new namespaces, and the project
installed by the commands of the README. It sees this machine's files, what it writes is gone with it, and its network
is a loopback of its own. systemd_boot.sh makes it.
"""

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

from net import patient, wait_until
from processes import GUARD, REPOSITORY, Process, program
from rig import Rig
from sockets import Service, connect, is_refused

SYSTEMD = "/lib/systemd/systemd"
# LoadCredential= with %d, and systemd-analyze's --recursive-errors.
SYSTEMD_VERSION_MIN = 250
BOOT = Path(__file__).with_name("systemd_boot.sh")
BOOT_REFUSED = 77
ROOMS = ("--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup")
PROGRAMS = ("natrp-engine", "natrp", "natrpctl")
CLONE_NEWNET = 0x40000000

EDGE = "natrp-engine"
AGENT = "natrp@home"


class CannotBoot(Exception):
    """What this machine does not have or does not allow."""


def obstacle():
    """Why no systemd can be booted here, as far as one sees before it is tried; None when nothing is seen."""
    if os.geteuid() != 0:
        return "only root boots a systemd"
    if not os.access(SYSTEMD, os.X_OK):
        return f"there is no {SYSTEMD} (Debian's package systemd)"
    said = subprocess.run([SYSTEMD, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
    version = re.match(r"systemd (\d+)", said)
    if not version or int(version[1]) < SYSTEMD_VERSION_MIN:
        return f"the units need systemd {SYSTEMD_VERSION_MIN}, and this is {said.splitlines()[:1]}"
    if any(library in Path(program(EDGE)).read_bytes() for library in (b"libasan", b"libtsan")):
        return "sanitizers need what the units forbid"
    refusal = subprocess.run(["unshare", *ROOMS, "--fork", "true"], stdin=subprocess.DEVNULL, capture_output=True,
                             text=True)
    return f"no namespaces may be made here: {refusal.stderr.strip()}" if refusal.returncode else None


def cgroup2():
    """Where the kernel's second version of control groups is mounted."""
    with open("/proc/mounts", encoding="utf-8") as mounts:
        for _, place, kind, *_ in map(str.split, mounts):
            if kind == "cgroup2":
                return Path(place)
    raise CannotBoot("no cgroup2 is mounted here")


def readme_commands():
    """What the README tells to type on its two hosts, without what builds."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Run it on two hosts\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)[1]
    lines = "".join(re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)).splitlines()
    return [re.sub(r"^sudo |\s+#.*", "", line) for line in lines if line and not line.startswith("make ")]


class SystemdHost:
    """Booted, with edge and agent installed, from its making to close(). `journal` is its journal as it grows."""

    def __init__(self, directory):
        reason = obstacle()
        if reason:
            raise CannotBoot(reason)
        self.directory = Path(directory)
        self.checkout = self.directory / "checkout"  # /mnt there
        (self.checkout / "build").mkdir(parents=True)
        self.checkout.chmod(0o755)
        for name in PROGRAMS:
            shutil.copy(program(name), self.checkout / "build")
        shutil.copytree(REPOSITORY / "packaging", self.checkout / "packaging")
        room = self.directory / "room"
        room.mkdir()
        # systemd needs a control group that is nobody else's, and cannot leave it.
        self._cgroup = cgroup2() / f"natrp-e2e-{os.getpid()}"
        try:
            self._cgroup.mkdir()
        except OSError as error:
            raise CannotBoot(f"no control group may be made here: {error}") from None
        self.journal = None
        self.process = Process(
            "systemd", ["unshare", *ROOMS, "--fork", "--kill-child", BOOT, room, self.checkout], self.directory,
            prefix=["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self._cgroup / "cgroup.procs")])
        try:
            self._boot()
            self._install()
        except BaseException:
            self.close()
            raise

    def _boot(self):
        # The mark first: before the host has its own files, systemctl would ask this machine's systemd.
        booted = "test -e /run/natrp-e2e && systemctl is-system-running"
        wait_until(lambda: self.attempt(booted).returncode == 0 or not self.process.alive, 30,
                   lambda: f"systemd is up\n{self.attempt(booted)}\n{self.process.describe()}")
        if not self.process.alive:
            assert self.process.wait_exit() == BOOT_REFUSED, self.process.describe()
            raise CannotBoot(f"no host of its own may be made here: {' '.join(self.process.err.split())}")
        self.journal = Process("journal", self._inside("exec journalctl --follow --lines=all --output=short-monotonic"),
                               self.directory)

    def _install(self):
        """As the README says it. The agent's example names edge.example.org, which this host is, and is not edited."""
        token = None
        for command in readme_commands():
            if command.startswith("journalctl"):  # no agent has its address the moment it is started
                wait_until(lambda line=command: self.attempt(line).returncode == 0, 15, command)
                continue
            said = self.run(command, token + "\n" if "/dev/stdin" in command else "")
            if "client add" in command:
                token = said.split()[-1]

    def _inside(self, command):
        """The line of a shell on that host, in its copy of the project."""
        proc = f"/proc/{self.process.pid}/ns"
        return ["nsenter", f"--pid={proc}/pid_for_children", f"--mount={proc}/mnt", f"--uts={proc}/uts",
                f"--ipc={proc}/ipc", f"--net={proc}/net", f"--cgroup={proc}/cgroup", "--",
                "env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c",
                f"umask 022 && cd /mnt && {command}"]

    def attempt(self, command, given="", seconds=30):
        try:
            return subprocess.run([*GUARD, *self._inside(command)], input=given, capture_output=True, text=True,
                                  timeout=patient(seconds))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{command} ran for {patient(seconds):g} s{self.last_words()}") from None

    def run(self, command, given="", code=0):
        """Its standard output, when it ended with `code`."""
        done = self.attempt(command, given)
        assert done.returncode == code, (
            f"{command} ended with {done.returncode} instead of {code}\n{done.stdout}{done.stderr}{self.last_words()}")
        return done.stdout

    def show(self, unit, name):
        """A property of a unit, as systemctl shows it."""
        return self.run(f"systemctl show --value --property={name} {unit}").strip()

    def main_pid(self, unit):
        return int(self.show(unit, "MainPID"))

    def last_words(self):
        return f"\n{self.journal.tail(40)}" if self.journal else ""

    @contextlib.contextmanager
    def network(self):
        """What this thread opens within is a socket of that host, wherever it is used later."""
        libc = ctypes.CDLL(None, use_errno=True)

        def enter(room):
            if libc.setns(room, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")

        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{self.process.pid}/ns/net", os.O_RDONLY)
        try:
            enter(there)
            try:
                yield
            finally:
                enter(here)
        finally:
            os.close(here)
            os.close(there)

    def as_installed(self):
        """Edge and agent anew, from the files of the project and nothing that a test has changed."""
        self.run("rm -rf /etc/systemd/system/natrp*.d && systemctl daemon-reload && systemctl reset-failed && "
                 "install build/natrp-engine build/natrp /usr/local/bin/ && "
                 f"install -m 644 packaging/engine.toml /etc/natrp/ && systemctl restart {EDGE} {AGENT}")

    def close(self):
        """Process 1 is killed, and with it the kernel ends all that the host has."""
        if self.journal:
            self.journal.kill()
        self.process.kill()
        wait_until(lambda: "populated 0" in (self._cgroup / "cgroup.events").read_text(), 15,
                   "every process of the host has ended")
        for folder, _, _ in os.walk(self._cgroup, topdown=False):
            os.rmdir(folder)


class HostRig(Rig):
    """The tunnel of one agent of the host, and its service."""

    healthy = False  # the edge's example has no admin server to ask

    def __init__(self, host, unit=AGENT, service=None):
        if service is None:
            with host.network():
                service = Service(port=8080)  # as in the agent's example
        super().__init__(None, None, service)
        self.host = host
        self.unit = unit

    @property
    def directory(self):
        return self.host.directory

    @property
    def address(self):
        """What systemd was told by the agent, once it has been."""
        def told():
            return re.fullmatch(r"public address: edge\.example\.org:(\d+)", self.host.show(self.unit, "StatusText"))
        found = wait_until(told, 15, lambda: f"{self.unit} has its public address{self.host.last_words()}")
        return "127.0.0.1", int(found[1])

    def visit(self, **options):
        address = self.address
        with self.host.network():
            return self.keep(connect(address, **options))

    def wait_refused(self, address):
        """Until new visitors get nowhere."""
        def refused():
            with self.host.network():
                return is_refused(address, 1)
        wait_until(refused, 15, lambda: f"new visitors are refused{self.host.last_words()}")
        self.service.forget()

    def close(self):
        self.settle()
        self.service.close()
