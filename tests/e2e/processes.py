"""The programs under test as processes: started, awaited with bounds, read, and ended by their process id.

Every process is remembered from its start. watch.judge() looks at all of them: one that crashed, that ended
without being asked, or in whose standard error a sanitizer reported, fails the test that was running.
"""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path

from net import patient, split_host_port, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("NATRP_BUILD", REPOSITORY / "build")).resolve()

EXIT_REFUSED = 2

SANITIZER = re.compile(
    r"(ERROR|WARNING): (Address|Leak|Thread|Memory|UndefinedBehavior)Sanitizer|:\d+:\d+: runtime error: ")
CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP,
           signal.SIGSYS, signal.SIGPIPE}

# A run of the suite that is itself killed leaves no process behind: the kernel ends them with it.
GUARD = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()


def program(name):
    path = BUILD / name
    assert path.exists(), f"{path} does not exist: run `make build`, or set NATRP_BUILD to the build directory"
    return str(path)


class Watch:
    """Knows every process of this run."""

    def __init__(self):
        self.processes = []

    def judge(self):
        """Fails for what went wrong since the last call; forgets processes that have ended as they should."""
        problems = []
        for process in list(self.processes):
            problem = process.problem()
            if problem:
                problems.append(problem)
            if problem or not process.alive:
                self.processes.remove(process)
                if process.alive:
                    process.kill()
        assert not problems, "\n\n".join(problems)


watch = Watch()


def wait_for_line(who, read, pattern, seconds, after=0):
    """Until a line of what `read` returns matches; fails at once when `who` ends without saying it."""
    compiled = re.compile(pattern, re.MULTILINE)

    def said():
        alive = who.alive  # before the read, so that last words are not missed
        match = compiled.search(read(), after)
        if match or not alive:
            return match or who
        return None

    found = wait_until(said, seconds, lambda: f"{who.name} said /{pattern}/\n{who.describe()}")
    assert found is not who, f"{who.name} ended without saying /{pattern}/\n{who.describe()}"
    return found


class Process:
    """One process. Its standard output and standard error go to files in `directory`."""

    _count = 0

    def __init__(self, name, argv, directory, env=None, prefix=()):
        Process._count += 1
        self.name = name
        self.directory = Path(directory)
        self.argv = [str(word) for word in argv]
        self._paths = [Path(directory) / f"{Process._count:04d}-{name}.{kind}" for kind in ("out", "err")]
        self._texts = ["", ""]
        self._judged = 0
        self._expected = False
        # A path of our own for what should not reach the program: notifications of the caller's own service manager.
        environment = {k: v for k, v in os.environ.items() if k not in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID")}
        environment.update(env or {})
        with open(self._paths[0], "wb") as out, open(self._paths[1], "wb") as err:
            self._popen = subprocess.Popen([*GUARD, *prefix, *self.argv], stdin=subprocess.DEVNULL, stdout=out,
                                           stderr=err, env=environment, cwd=directory)
        self._files = [open(path, "r", encoding="utf-8", errors="replace") for path in self._paths]
        watch.processes.append(self)

    @property
    def pid(self):
        return self._popen.pid

    @property
    def alive(self):
        return self._popen.poll() is None

    @property
    def exit_code(self):
        return self._popen.poll()

    def _text(self, index):
        self._texts[index] += self._files[index].read()
        return self._texts[index]

    @property
    def out(self):
        return self._text(0)

    @property
    def err(self):
        return self._text(1)

    def tail(self, lines=30):
        said = (self.out + self.err).strip().splitlines()
        return "\n".join(f"  | {line}" for line in said[-lines:]) or "  | (it said nothing)"

    def describe(self):
        state = "running" if self.alive else f"ended with {self.exit_code}"
        return f"{self.name} (pid {self.pid}, {state}): {' '.join(self.argv)}\n{self.tail()}"

    def wait_for(self, pattern, seconds=15, stream="err", after=0):
        """Until a line of the stream matches; fails at once when the process ends without saying it."""
        return wait_for_line(self, lambda: getattr(self, stream), pattern, seconds, after)

    def wait_exit(self, seconds=15):
        """The exit code, once it ends by itself."""
        self._expected = True
        try:
            return self._popen.wait(patient(seconds))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {patient(seconds):g} s:\n{self.describe()}") from None

    def terminate(self):
        """SIGTERM: asks for a drain."""
        self._expected = True
        if self.alive:
            self._popen.send_signal(signal.SIGTERM)

    def kill(self):
        """SIGKILL, and waits until it is gone."""
        self._expected = True
        if self.alive:
            self._popen.kill()
        self._popen.wait(patient(15))

    def stop(self, seconds=20):
        """The ordinary end: SIGTERM, and exit code 0. It is gone on return, one way or the other."""
        if not self.alive:
            return
        self.terminate()
        try:
            code = self.wait_exit(seconds)
        finally:
            self.kill()
        assert code == 0, f"{self.name} answered SIGTERM with exit code {code} instead of 0\n{self.describe()}"

    def problem(self):
        """A sentence when something is wrong with this process that no test may overlook."""
        err = self.err
        report = SANITIZER.search(err, self._judged)
        self._judged = len(err)
        if report:
            return f"a sanitizer reported in {self.name}:\n{err[report.start():report.start() + 6000]}"
        code = self.exit_code
        if code is not None and code < 0 and -code in CRASHES:
            return f"{self.name} crashed with {signal.Signals(-code).name}\n{self.describe()}"
        if code is not None and not self._expected:
            return f"{self.name} ended by itself\n{self.describe()}"
        return None

    @contextlib.contextmanager
    def frozen(self):
        """It stands still (SIGSTOP) for the body's time: the kernel goes on for it, and nothing else."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    # --- what the kernel knows about it ---

    def descriptors(self):
        """Open descriptors by kind: {"socket": n, "pipe": n, "other": n}. Two ends of a pipe count as two."""
        kinds = {"socket": 0, "pipe": 0, "other": 0}
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            try:
                target = os.readlink(f"/proc/{self.pid}/fd/{name}")
            except FileNotFoundError:
                continue
            kind = target.split(":")[0]
            kinds[kind if kind in kinds else "other"] += 1
        return kinds


class Successor:
    """An edge that another one started, and whose standard error is that one's. It is no child of ours."""

    def __init__(self, pid, starter):
        self.name = "successor"
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._starter = starter

    @property
    def alive(self):
        return not select.select([self._pidfd], [], [], 0)[0]

    @property
    def file(self):
        """What it runs."""
        return os.readlink(f"/proc/{self.pid}/exe")

    def describe(self):
        state = "running" if self.alive else "ended"
        return f"{self.name} (pid {self.pid}, {state}), whose standard error is of {self._starter.describe()}"

    def wait_for(self, pattern, seconds=15, after=0):
        """As Process.wait_for, of what it says where its starter does, which may have ended by now."""
        return wait_for_line(self, lambda: self._starter.err, pattern, seconds, after)

    def signal(self, number):
        if self.alive:
            signal.pidfd_send_signal(self._pidfd, number)

    def stop(self, seconds=20):
        """The ordinary end, by SIGTERM."""
        self.signal(signal.SIGTERM)
        wait_until(lambda: not self.alive, seconds, f"the successor {self.pid} ends")

    def close(self):
        # Who started it would start another, and nobody would end that.
        if self._starter.alive:
            self._starter.terminate()
        self.signal(signal.SIGKILL)
        wait_until(lambda: not self.alive, 15, f"the killed successor {self.pid} ends")
        os.close(self._pidfd)


def flags(options):
    """{"pipes_max": 2} → ["--pipes-max", "2"]; None leaves a flag out; a list repeats it; True gives it no value."""
    words = []
    for key, value in options.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is None:
                continue
            words.append("--" + key.replace("_", "-"))
            if one is not True:
                words.append(str(one))
    return words


class Edge:
    """One edge, through its restarts: the same flags and the same state folder."""

    def __init__(self, directory, options, env=None, prefix=()):
        self.directory = Path(directory)
        self.options = dict(options)
        self.env = env
        self.prefix = prefix
        self.file = program("natrp-engine")
        self.process = None

    @property
    def bind(self):
        return split_host_port(self.options["bind"])

    @property
    def server(self):
        """What the agent's --server wants."""
        return self.options["bind"]

    @property
    def state(self):
        return self.options["state"]

    def start(self, ready=True):
        self.process = Process("natrp-engine", [self.file, *flags(self.options)], self.directory, self.env,
                               self.prefix)
        if ready:
            self.process.wait_for("edge ready", 20)
        return self

    def get(self, path, seconds=10):
        """The body of an admin page."""
        request = urllib.request.Request(f"http://{self.options['admin']}{path}", headers={"Connection": "close"})
        with urllib.request.urlopen(request, timeout=patient(seconds)) as answer:
            return answer.read().decode()

    def metrics(self):
        """{name: value}, summed over labels."""
        values = {}
        for line in self.get("/metrics").splitlines():
            match = re.match(r"([a-zA-Z_:][\w:]*)(?:\{.*\})?\s+(\S+)", line)
            if match:
                values[match[1]] = values.get(match[1], 0) + float(match[2])
        return values

    def metric(self, name):
        values = self.metrics()
        assert name in values, f"/metrics has no {name}; it has {sorted(values)}"
        return values[name]

    # --- clients ---

    def ctl(self, *words):
        """natrpctl on this edge's state folder: (exit code, standard output, standard error)."""
        done = subprocess.run([*GUARD, program("natrpctl"), "--state", str(self.state), *words],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patient(20))
        assert not SANITIZER.search(done.stderr), done.stderr
        assert done.returncode >= 0, f"natrpctl {words} ended by signal {-done.returncode}\n{done.stderr}"
        return done.returncode, done.stdout, done.stderr

    def add_client(self, name="tester", *words):
        """The join token of a new client."""
        code, out, err = self.ctl("client", "add", name, *words)
        assert code == 0 and out.split(), f"natrpctl client add {name} {words} ended with {code}\n{out}{err}"
        return out.split()[-1]

    def add_plain_client(self, name, *words):
        """The plain token of a new client, as an agent of the original natrp wants it."""
        code, out, err = self.ctl("client", "add", name, "--plain-token", *words)
        found = re.search(r"^Its plain token,.*:\n(\S+)$", out, re.MULTILINE)
        assert code == 0 and found, f"natrpctl client add {name} {words} ended with {code}\n{out}{err}"
        return found[1]


class Agent:
    """One agent, through its restarts."""

    ADDRESS = r"^public address: (\S+)(?: \(\S+\))?\s*$"

    def __init__(self, directory, options, env=None, prefix=()):
        self.directory = Path(directory)
        self.options = dict(options)
        self.env = env
        self.prefix = prefix
        self.process = None

    def start(self, ready=True):
        self.process = Process("natrp", [program("natrp"), *flags(self.options)], self.directory, self.env,
                               self.prefix)
        if ready:
            self.wait_address()
        return self

    def addresses(self):
        """Every public address it has printed since its start, in order."""
        return [split_host_port(text) for text in re.findall(self.ADDRESS, self.process.out, re.MULTILINE)]

    def wait_address(self, count=1, seconds=40):
        """The public address of the `count`th line, once it has been printed."""
        def printed():
            alive = self.process.alive
            found = self.addresses()
            return found if len(found) >= count or not alive else None

        found = wait_until(printed, seconds, lambda: f"public address number {count}\n{self.process.describe()}")
        assert len(found) >= count, f"the agent ended before public address {count}\n{self.process.describe()}"
        return found[count - 1]

    @property
    def address(self):
        return self.wait_address()

    def refused(self, *mentions, seconds=20):
        """It ends with exit code 2 and a sentence that mentions each of these (regular expressions)."""
        code = self.process.wait_exit(seconds)
        assert code == EXIT_REFUSED, f"exit code {code} instead of {EXIT_REFUSED}\n{self.process.describe()}"
        assert_sentence(self.process.err, *mentions)


def assert_sentence(text, *mentions):
    """The text is for a person: it has a line of some words, mentions what it should, and is no crash."""
    assert "terminate called" not in text and "Assertion" not in text, f"a crash instead of a sentence:\n{text}"
    assert any(len(line.split()) >= 4 for line in text.splitlines()), f"no sentence on standard error:\n{text!r}"
    for mention in mentions:
        assert re.search(mention, text, re.IGNORECASE), f"nothing matches /{mention}/ in:\n{text}"
