"""The workloads: what is done to a contestant, and which figures that gives.

A measurement starts the service and the contestant anew, runs visitor_swarm, and reads what the contestant's
processes used between the lines with which visitor_swarm marks the measured time.
"""

import contextlib
import dataclasses
import fnmatch
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time

from . import counters
from .places import BareCable, BoundLine, Cable, Loopback, LongLine
from .processes import BenchError, Process, Usage, accepts, free_port, pss_kb, undisturbed, wait_until

GB = 1e9
# A stream or a pump may keep a buffer or a pipe for a second after its last byte.
SETTLE_S = 2.0
SWARM_TIMEOUT_S = 120


@dataclasses.dataclass
class Tools:
    """Where the programs are, and what this run may use."""
    build: str
    fd_limit: int
    congestion: str = ""  # for the sockets of visitors and service; empty: the system's

    def program(self, name):
        for path in (os.path.join(self.build, name), os.path.join(self.build, "bench", name),
                     os.path.join(self.build, "tools", name)):
            if os.path.isfile(path):
                return path
        return os.path.join(self.build, name)

    def missing(self):
        """Which of the programs that every measurement needs is not built; empty when none is."""
        absent = [name for name in ("visitor_swarm", "echo_service") if not os.path.exists(self.program(name))]
        return f"{', '.join(absent)} not in {self.build}" if absent else ""

    @property
    def floor_relay(self):
        return self.program("floor_relay")

    def congestion_flags(self):
        return ["--cc", self.congestion] if self.congestion else []


class Session:
    """One contestant, started between a service and a public port. `with Session(...) as session:`"""

    def __init__(self, tools, contestant, place=Loopback, count_allocations=False):
        self.tools = tools
        self.contestant = contestant
        self.place_kind = place
        self.count_allocations = count_allocations
        self.service = None
        self.cleanup = contextlib.ExitStack()

    def __enter__(self):
        try:
            self.folder = self.cleanup.enter_context(tempfile.TemporaryDirectory(prefix="tunnel-bench-"))
            self.place = self.cleanup.enter_context(self.place_kind(self.tools, self.folder))
            self.service_port = free_port()
            self.start_echo_service()
            contestant_folder = os.path.join(self.folder, "contestant")
            os.mkdir(contestant_folder)
            self.contestant.allocation_counter = (
                counters.AllocationCounter(self.tools.program("libcount_alloc.so"), self.folder)
                if self.count_allocations else None)
            self.cleanup.callback(self.contestant.stop)
            self.contestant.start(self.service_port, contestant_folder, self.place)
            time.sleep(0.1)  # what a start leaves to do (channels dialled ahead) is not part of a measurement
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        with undisturbed():
            self.cleanup.close()

    def start_echo_service(self):
        host = self.place.agent_host
        with self.place.on_agent():
            self.service = Process([self.tools.program("echo_service"), "--listen", f"{host}:{self.service_port}",
                                    *self.tools.congestion_flags()], os.path.join(self.folder, "service.log"))
            self.cleanup.callback(self.service.stop)
            wait_until(lambda: accepts(self.service_port, host), 5, "echo_service listening", [self.service])

    def replace_service(self, arguments):
        """Another service on the same port: the contestant need not know."""
        self.service.stop()
        service = Process(arguments, os.path.join(self.folder, "service.log"))
        self.cleanup.callback(service.stop)
        wait_until(lambda: accepts(self.service_port), 5, f"{arguments[0]} listening", [service])

    def usage(self):
        return Usage.of(self.contestant.roots())

    def pss_kb(self):
        return pss_kb(self.contestant.roots())

    def allocations(self):
        """role -> how many so far"""
        return {role: self.contestant.allocation_counter.read(role) for role in self.contestant.roles}

    def swarm(self, mode, *arguments):
        return Swarm(self, mode, arguments)

    def measure(self, mode, *arguments):
        """(the result of visitor_swarm, what the contestant used meanwhile)"""
        with self.swarm(mode, "--wait", "on", *arguments) as swarm:
            swarm.wait_for_line()
            before = self.usage()
            swarm.say("measure")
            result = swarm.wait_for_result()
            used = self.usage().since(before)
        self.contestant.require_alive()
        return result, used

    def measure_allocations(self, mode, *arguments, settle_s=0):
        """(the result of visitor_swarm, role -> how many allocations its process made meanwhile)

        settle_s: between the coming of those connections that stay and the first message.
        """
        with self.swarm(mode, "--wait", "on", *arguments) as swarm:
            swarm.wait_for_line()
            time.sleep(settle_s)
            before = self.allocations()
            swarm.say("measure")
            result = swarm.wait_for_result()
            after = self.allocations()
        self.contestant.require_alive()
        return result, {role: after[role] - before[role] for role in after}


    def measure_allocations_amid(self, warm_up_s, seconds, mode, *arguments):
        """The same for `seconds` in the midst of a run that began warm_up_s before and goes on behind."""
        with self.swarm(mode, *arguments, "--seconds", warm_up_s + seconds + SETTLE_S) as swarm:
            time.sleep(warm_up_s)
            before = self.allocations()
            time.sleep(seconds)
            after = self.allocations()
            result = swarm.wait_for_result()
        self.contestant.require_alive()
        return result, {role: after[role] - before[role] for role in after}


class Swarm:
    """One running visitor_swarm. `with` ends it."""

    def __init__(self, session, mode, arguments):
        to = f"{session.contestant.public_host}:{session.contestant.public_port}"
        command = [session.tools.program("visitor_swarm"), mode, "--to", to, *session.tools.congestion_flags(),
                   *[str(argument) for argument in arguments]]
        with session.place.on_edge():
            self.process = Process(command, os.path.join(session.folder, "swarm.log"), pipe=True,
                                   stdin=subprocess.PIPE)
        self.watchdog = threading.Timer(SWARM_TIMEOUT_S, self.process.popen.kill)
        self.watchdog.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.watchdog.cancel()
        self.process.stop()

    def say(self, line):
        try:
            self.process.popen.stdin.write(line + "\n")
            self.process.popen.stdin.flush()
        except OSError as error:
            raise BenchError(f"visitor_swarm is gone: {self.process.log_tail()}") from error

    def end_input(self):
        self.process.popen.stdin.close()

    def wait_for_line(self):
        line = self.process.popen.stdout.readline()
        if not line:
            self.process.popen.wait()
            raise BenchError(f"visitor_swarm ended without a word, code {self.process.popen.returncode} "
                             f"(killed after {SWARM_TIMEOUT_S} s when -9): {self.process.log_tail()}")
        answer = json.loads(line)
        if answer.get("error"):
            raise BenchError(f"{answer['error']}: {answer.get('failures')}")
        return answer

    def wait_for_result(self):
        answer = self.wait_for_line()
        while "phase" in answer:
            answer = self.wait_for_line()
        if not answer.get("verified"):
            raise BenchError(f"not all was served rightly: {answer.get('failed')} failed {answer.get('failures')}, "
                             f"{answer.get('errors', 0)} wrong bytes, {answer.get('unanswered', 0)} unanswered")
        return answer


class Workload:
    """name: its key in result files. figures of measure(): see each."""
    name = ""
    title = ""
    for_variants = False
    once = False  # deterministic enough for one round
    needs_processes = False  # says nothing about a direct connection
    place = Loopback

    def session(self, tools, contestant):
        return Session(tools, contestant, self.place)

    def measure(self, session, seconds):
        raise NotImplementedError

    def missing(self, tools):
        """Why it cannot be run here; empty when it can."""
        return self.place.missing(tools)

    def suits(self, contestant):
        """Whether the contestant takes part in it."""
        if contestant.only_workloads and not any(fnmatch.fnmatch(self.name, one) for one in contestant.only_workloads):
            return False
        if self.place is not Loopback and not contestant.goes_anywhere:
            return False
        if self.needs_processes and not contestant.has_processes:
            return False
        return self.for_variants or not contestant.is_variant


def gigabytes(count):
    """A contestant that lets nothing through in the measured time has failed, however rightly its streams end."""
    if count == 0:
        raise BenchError("not one byte came through in the measured time")
    return count / GB


class Bulk(Workload):
    def __init__(self, streams, direction, for_variants=False, place=Loopback):
        self.streams, self.direction, self.for_variants, self.place = streams, direction, for_variants, place
        self.name = f"{place.prefix}bulk_{streams}_{direction}"
        self.title = f"bulk, {streams} stream{'s' if streams > 1 else ''}, {direction}{place.words}"

    def measure(self, session, seconds):
        result, used = session.measure("bulk", "--streams", self.streams, "--direction", self.direction,
                                       "--seconds", seconds)
        carried = gigabytes(result["bytes"])
        return {"gbps": result["gbps"], "cpu_s_per_gb": used.cpu_s / carried,
                "wakeups_per_gb": used.voluntary_switches / carried,
                "preemptions_per_gb": used.involuntary_switches / carried,
                "least_over_most": result["least_over_most"]}


class Exchange(Workload):
    def __init__(self, connections, size=64, rate=0, for_variants=False):
        self.connections, self.size, self.rate, self.for_variants = connections, size, rate, for_variants
        self.name = f"exchange_{size}_{connections}" + (f"_open_{rate}" if rate else "")
        self.title = (f"{size} B exchanges, {connections} connection{'s' if connections > 1 else ''}"
                      + (f", open loop at {rate}/s" if rate else ""))

    def measure(self, session, seconds):
        result, used = session.measure("exchange", "--size", self.size, "--connections", self.connections,
                                       "--seconds", seconds, "--rate", self.rate)
        return exchange_figures(result, used)


def exchange_figures(result, used):
    return {"rate_per_s": result["rate_per_s"], "cpu_us_per_exchange": used.cpu_s * 1e6 / max(result["exchanges"], 1),
            "wakeups_per_exchange": used.voluntary_switches / max(result["exchanges"], 1),
            "p50_us": result["p50_us"], "p99_us": result["p99_us"], "p999_us": result["p999_us"]}


class Churn(Workload):
    for_variants = True

    def __init__(self, at_once=32):
        self.at_once = at_once
        self.name = f"churn_{at_once}"
        self.title = f"new connection + 64 B exchange + close, {at_once} at once"

    def measure(self, session, seconds):
        result, used = session.measure("churn", "--at-once", self.at_once, "--seconds", seconds)
        return {"rate_per_s": result["rate_per_s"], "cpu_us_per_cycle": used.cpu_s * 1e6 / max(result["cycles"], 1),
                "p50_us": result["p50_us"], "p99_us": result["p99_us"]}


class IdleMemory(Workload):
    """Figures: base (all processes, one visitor there), held (all visitors there), and PSS per further idle visitor;
    visitors are checked twice.

    What a further visitor costs is counted from WARM_UP of them on: the first bring code into memory that the others
    use, too. A visitor_swarm runs during all readings: PSS divides the pages of shared libraries among all that map
    them, and a program that comes in between would make the contestant look smaller.
    """
    WARM_UP = 100
    for_variants = True
    once = True
    needs_processes = True

    def __init__(self, connections=1000):
        self.connections = connections
        self.name = f"idle_{connections}"
        self.title = f"memory, {connections} idle visitors"

    def measure(self, session, seconds):
        with session.swarm("idle", "--connections", 1) as swarm:
            base_kb = self.settled_pss_kb(session, swarm)
            swarm.end_input()
            swarm.wait_for_result()
        with session.swarm("idle", "--first", self.WARM_UP, "--connections", self.WARM_UP + self.connections) as swarm:
            warm_kb = self.settled_pss_kb(session, swarm)
            swarm.say("open the rest")
            held_kb = self.settled_pss_kb(session, swarm)
            swarm.end_input()
            swarm.wait_for_result()
        processes = len(session.contestant.roots())
        return {"base_pss_kb": base_kb, "base_pss_kb_per_process": base_kb / processes, "held_pss_kb": held_kb,
                "pss_bytes_per_visitor": (held_kb - warm_kb) * 1024 / self.connections}

    @staticmethod
    def settled_pss_kb(session, swarm):
        swarm.wait_for_line()
        time.sleep(SETTLE_S)
        return session.pss_kb()


class Allocations(Workload):
    """What the processes ask their allocators for after a warm-up of the same: per million messages of connections that
    stay (an exchange is two messages), and per connection that comes, exchanges and closes.

    What a contestant allocates without any visitor (heartbeats and the like) is measured first, when all that visitors
    caused is over, and subtracted; all times hold whole periods of it. What it does because visitors came (it may dial
    ahead for more of them, and less and less) is over when the first message counts; connections are counted while
    others come all the time.
    """
    name = "allocations"
    title = "allocations after warm-up (64 B messages of 64 connections; new connections, 32 at once)"
    for_variants = True
    once = True
    needs_processes = True
    WARM_UP_S = 1.0
    EXCHANGE = ("exchange", "--connections", 64, "--seconds")
    CHURN = ("churn", "--at-once", 32)

    def __init__(self, ours_only=False):
        self.ours_only = ours_only

    def missing(self, tools):
        programs = [tools.program(name) for name in ("libcount_alloc.so", "count_alloc_control")]
        return counters.allocations_uncountable(*programs)

    def suits(self, contestant):
        if self.ours_only and not contestant.is_ours:
            return False
        return contestant.allocates_countably and super().suits(contestant)

    def session(self, tools, contestant):
        return Session(tools, contestant, count_allocations=True)

    def measure(self, session, seconds):
        period_s = session.contestant.period_s or seconds
        session.measure(*self.EXCHANGE, self.WARM_UP_S)
        time.sleep(max(session.contestant.settle_s, SETTLE_S / 2))
        before = session.allocations()
        time.sleep(period_s)
        after = session.allocations()
        idle_per_s = {role: (after[role] - before[role]) / period_s for role in after}

        result, made = session.measure_allocations(*self.EXCHANGE, period_s, settle_s=session.contestant.settle_s)
        millions = 2 * max(result["exchanges"], 1) / 1e6
        per_million = {role: max(count - idle_per_s[role] * result["seconds"], 0) / millions
                       for role, count in made.items()}
        # In its midst: when visitors begin to come and when they cease, channels are dialled ahead or given up.
        result, made = session.measure_allocations_amid(2 * self.WARM_UP_S, period_s, *self.CHURN)
        connections = max(result["rate_per_s"] * period_s, 1)
        per_connection = {role: max(count - idle_per_s[role] * period_s, 0) / connections
                          for role, count in made.items()}

        figures = {}
        for figure, of in (("allocations_per_million_messages", per_million),
                           ("allocations_per_connection", per_connection),
                           ("allocations_per_s_idle", idle_per_s)):
            figures[figure] = sum(of.values())
            figures.update({f"{role}_{figure}": value for role, value in of.items()})
        return figures


class IdleAndActive(Workload):
    """Many visitors that only stay, and a few that talk."""

    def __init__(self, idle=10_000, active=100):
        self.idle, self.active = idle, active
        self.name = f"idle_{idle}_active_{active}"
        self.title = f"64 B exchanges of {active} visitors beside {idle} idle ones"

    def measure(self, session, seconds):
        # An edge needs two descriptors per visitor; ours keeps an eighth of all for the sessions of its agents, and
        # some for pipes. So 10,000 visitors want a limit of 25,000; with less, all contestants get fewer.
        idle = min(self.idle, session.tools.fd_limit * 2 // 5)
        with session.swarm("idle", "--connections", idle) as swarm:
            swarm.wait_for_line()
            result, used = session.measure("exchange", "--connections", self.active, "--seconds", seconds)
            swarm.end_input()
            swarm.wait_for_result()
        return {"idle_visitors": idle, **exchange_figures(result, used)}


class Mixed(Workload):
    """The p99 of interactive visitors beside bulk streams, against their own p99 without them.

    The ends of the bulk streams run at niceness 19. On as few CPUs as there are processes even a direct connection
    would otherwise wait ten times longer beside bulk, for the generators' turns; the tunnel itself gets no niceness.
    """

    def __init__(self, streams=10, connections=1000, rate=2000):
        self.streams, self.connections, self.rate = streams, connections, rate
        self.name = f"mixed_{streams}_{connections}"
        self.title = f"{streams} bulk streams beside {connections} interactive visitors ({rate}/s, open loop)"

    def measure(self, session, seconds):
        result, _ = session.measure("mixed", "--streams", self.streams, "--connections", self.connections,
                                    "--rate", self.rate, "--seconds", seconds, "--nice", 19)
        return {"p99_alone_us": result["alone"]["p99_us"], "p99_beside_us": result["beside"]["p99_us"],
                "p50_beside_us": result["beside"]["p50_us"], "bulk_gbps": result["bulk"]["gbps"]}


class FirstByte(Workload):
    """From the visitor's connect to the first byte back. Warm: one visitor at a time, with pauses in which channels
    can be dialled ahead. Cold: bursts of more visitors than any contestant dials ahead for."""

    def __init__(self, warm, place=Loopback):
        self.warm, self.place = warm, place
        self.name = place.prefix + ("first_byte_warm" if warm else "first_byte_cold")
        self.title = f"first byte, {'one visitor at a time' if warm else 'bursts of 256 visitors'}{place.words}"

    def measure(self, session, seconds):
        rounds = max(int(seconds * 1000 / (25 if self.warm else 200)), 3)
        result, _ = session.measure("first_byte", "--at-once", 1 if self.warm else 256, "--rounds", rounds,
                                    "--gap-ms", 20 if self.warm else 150)
        return {"p50_us": result["p50_us"], "p99_us": result["p99_us"], "max_us": result["max_us"]}


class HalfClose(Workload):
    """Whether a FIN reaches the other end as a FIN, and what that end says after it still comes back. All other
    workloads end their streams in-band, so that contestants that lose this can be measured; this one tells who does.
    Figures are 1 (yes) or 0."""
    name = "half_close"
    title = "half-close: a FIN passes, and the answer to it comes (1: yes, 0: lost)"
    once = True
    # A contestant that ends both directions at the first FIN has done so when this is over.
    PAUSE_S = 0.3
    TIMEOUT_S = 3
    ANSWER = bytes(range(256)) * 256  # both ends' socket buffers hold it: nobody needs to read meanwhile

    def measure(self, session, seconds):
        session.service.stop()
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", session.service_port))
            listener.listen()
            listener.settimeout(self.TIMEOUT_S)
            return {"visitor_fin_passes": self.passes(session.contestant, listener, of_visitor=True),
                    "service_fin_passes": self.passes(session.contestant, listener, of_visitor=False)}

    def passes(self, contestant, listener, of_visitor):
        public = (contestant.public_host, contestant.public_port)
        with socket.create_connection(public, self.TIMEOUT_S) as visitor:
            visitor.sendall(b"E")
            with listener.accept()[0] as service:
                service.settimeout(self.TIMEOUT_S)
                if service.recv(1) != b"E":
                    raise BenchError("the visitor's first byte did not reach the service")
                first, second = (visitor, service) if of_visitor else (service, visitor)
                return 1 if self.answered(first, second) else 0

    def answered(self, first, second):
        try:
            first.shutdown(socket.SHUT_WR)
            if second.recv(1) != b"":
                return False
            time.sleep(self.PAUSE_S)
            second.sendall(self.ANSWER)
            second.shutdown(socket.SHUT_WR)
            answer = b""
            while part := first.recv(len(self.ANSWER)):
                answer += part
            return answer == self.ANSWER
        except OSError:  # a reset, or nothing in time
            return False


class Iperf3(Workload):
    """An independent check of the bulk figures."""
    def __init__(self, direction):
        self.direction = direction
        self.name = f"iperf3_1_{direction}"
        self.title = f"iperf3, 1 stream, {direction} (independent check)"

    def missing(self, tools):
        return "" if shutil.which("iperf3") else "iperf3 is not installed"

    def measure(self, session, seconds):
        session.replace_service(["iperf3", "-s", "-B", "127.0.0.1", "-p", str(session.service_port)])
        command = ["iperf3", "-J", "-c", "127.0.0.1", "-p", str(session.contestant.public_port),
                   "-t", str(max(1, round(seconds)))]
        command += ["-R"] if self.direction == "down" else []
        command += ["-C", session.tools.congestion] if session.tools.congestion else []
        before = session.usage()
        done = subprocess.run(command, capture_output=True, text=True, timeout=SWARM_TIMEOUT_S, check=False)
        used = session.usage().since(before)
        report = json.loads(done.stdout or "{}")
        if "error" in report or done.returncode != 0:
            raise BenchError(f"iperf3: {report.get('error', done.stderr.strip())}")
        received = report["end"]["sum_received"]
        return {"gbps": received["bits_per_second"] / 1e9, "cpu_s_per_gb": used.cpu_s / gigabytes(received["bytes"])}


class Wrk(Workload):
    """An independent check of the exchange figures: HTTP requests over 64 connections that stay."""
    name = "wrk_64"
    title = "wrk, HTTP over 64 connections (independent check)"

    def missing(self, tools):
        return "" if shutil.which("wrk") and shutil.which("nginx") else "wrk or nginx is not installed"

    def measure(self, session, seconds):
        config = os.path.join(session.folder, "http.conf")
        user = "user root;" if os.geteuid() == 0 else ""
        with open(config, "w") as file:
            file.write(f"{user} daemon off; worker_processes 1; pid {session.folder}/http.pid; error_log stderr error;"
                       "events { worker_connections 4096; } http { access_log off; keepalive_requests 1000000000;"
                       f"server {{ listen 127.0.0.1:{session.service_port}; location / {{ return 200 'ok'; }} }} }}\n")
        session.replace_service([shutil.which("nginx"), "-p", session.folder, "-e", "stderr", "-c", config])
        before = session.usage()
        done = subprocess.run(["wrk", "-t1", "-c64", f"-d{max(1, round(seconds))}s", "--latency",
                               f"http://127.0.0.1:{session.contestant.public_port}/"],
                              capture_output=True, text=True, timeout=SWARM_TIMEOUT_S, check=False)
        used = session.usage().since(before)
        rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
        total = re.search(r"(\d+) requests in", done.stdout)
        if not rate or not total or "Socket errors" in done.stdout:
            raise BenchError(f"wrk: {(done.stdout + done.stderr).strip()[-300:]}")
        return {"rate_per_s": float(rate[1]), "cpu_us_per_exchange": used.cpu_s * 1e6 / int(total[1])}


def all_workloads(suite):
    """Those of a suite, in the order in which a round runs them."""
    if suite == "main":
        return [Bulk(1, "up"), Bulk(1, "down"), Bulk(8, "up"), Bulk(8, "down"),
                Exchange(1), Exchange(64), Churn(32), IdleMemory(1000), Allocations(ours_only=True)]
    elsewhere = [Bulk(streams, direction, place=place) for place in (Cable, BareCable)
                 for streams in (1, 8) for direction in ("up", "down")]
    elsewhere += [Bulk(streams, direction, place=place) for place in (LongLine, BoundLine)
                  for streams in (1, 100) for direction in ("up", "down")]
    elsewhere += [FirstByte(True, LongLine), FirstByte(False, LongLine)]
    return [Bulk(1, "up", True), Bulk(1, "down", True), Bulk(1, "both"),
            Bulk(8, "up", True), Bulk(8, "down", True), Bulk(8, "both"),
            Bulk(64, "up"), Bulk(64, "down"), Bulk(64, "both"),
            Exchange(1, for_variants=True), Exchange(64, for_variants=True), Exchange(1000),
            Exchange(1, 1024), Exchange(64, 1024), Exchange(1000, 1024), Exchange(64, rate=10_000),
            Churn(32), Mixed(), IdleMemory(1000), Allocations(), IdleAndActive(), FirstByte(True), FirstByte(False),
            HalfClose(), *elsewhere, Iperf3("up"), Iperf3("down"), Wrk()]
