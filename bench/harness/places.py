"""Where the two halves of a contestant stand, and what lies between them.

The edge's half is beside the visitors, the agent's half beside the service. A place is made for one measurement:
`with place:`, then edge_host, agent_host, on_edge(), on_agent() and path() say where things are. What is started inside
`with place.on_edge():` runs there, and so does what the block itself connects to or listens on.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess

from .processes import BenchError, Process, accepts, free_port, undisturbed, wait_until

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CLONE_NEWNET = 0x40000000
ROUND_TRIP_MS = 50
LINE_GBPS = 10


class Loopback:
    """Both halves on 127.0.0.1."""
    prefix = ""
    words = ""

    def __init__(self, tools, folder):
        self.tools, self.folder = tools, folder
        self.edge_host = self.agent_host = "127.0.0.1"

    @staticmethod
    def missing(_tools):
        return ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def on_edge(self):
        return contextlib.nullcontext()

    def on_agent(self):
        return contextlib.nullcontext()

    def path(self, host, port):
        """(host, port) at which the other half reaches host:port."""
        return host, port


class LongLine(Loopback):
    """Both on 127.0.0.1, and half a round trip of delay each way between them (delay_relay)."""
    prefix = "rtt_"
    words = f", {ROUND_TRIP_MS} ms round trip"
    rate = ()

    def __init__(self, tools, folder):
        super().__init__(tools, folder)
        self.relays = contextlib.ExitStack()

    @staticmethod
    def missing(tools):
        relay = tools.program("delay_relay")
        return "" if os.path.exists(relay) else f"{relay} is not built"

    def __exit__(self, *_):
        self.relays.close()

    def path(self, host, port):
        listen = free_port()
        relay = Process([self.tools.program("delay_relay"), "--listen", f"127.0.0.1:{listen}", "--to", f"{host}:{port}",
                         "--delay-ms", str(ROUND_TRIP_MS / 2), *self.rate, *self.tools.congestion_flags()],
                        os.path.join(self.folder, "delay_relay.log"))
        self.relays.callback(relay.stop)
        wait_until(lambda: accepts(listen), 5, "delay_relay listening", [relay])
        return "127.0.0.1", listen


class BoundLine(LongLine):
    """The same, and the line carries no more than a rate: what is compared is the line's use, not the CPUs'."""
    prefix = "line_"
    words = f", {ROUND_TRIP_MS} ms round trip at {LINE_GBPS} Gb/s"
    rate = ("--gbps", str(LINE_GBPS))


class Cable(Loopback):
    """Each half in a network namespace of its own, joined by a veth cable of MTU 1500 (scripts/netns_up.sh)."""
    prefix = "cable_"
    words = ", cable of MTU 1500"
    offloads = "on"

    @staticmethod
    def missing(_tools):
        if os.geteuid() != 0:
            return "network namespaces need root"
        absent = [name for name in ("ip", "ethtool") if not shutil.which(name)]
        return f"{', '.join(absent)} not installed" if absent else ""

    def netns(self, action, *options):
        script = os.path.join(REPOSITORY, "scripts", "netns_up.sh")
        with undisturbed():  # killed half-way it leaves what it has made
            done = subprocess.run([script, action, "--name", self.name, *options], capture_output=True, text=True,
                                  timeout=20, check=False)
        if done.returncode != 0:
            raise BenchError(f"netns_up.sh {action}: {done.stderr.strip()[-300:]}")
        return dict(word.split("=", 1) for word in done.stdout.split())

    def __enter__(self):
        self.name = f"bench-{os.getpid()}"
        try:
            made = self.netns("up", "--mtu", "1500", "--offloads", self.offloads)
        except BaseException:
            self.netns("down")
            raise
        self.edge_host, self.agent_host = made["edge_address"], made["agent_address"]
        self.edge_netns, self.agent_netns = made["edge_netns"], made["agent_netns"]
        return self

    def __exit__(self, *_):
        self.netns("down")

    def on_edge(self):
        return inside(self.edge_netns)

    def on_agent(self):
        return inside(self.agent_netns)


class BareCable(Cable):
    """The same without segmentation offloads: the kernel cuts the stream into packets of the MTU itself."""
    prefix = "bare_cable_"
    words = ", cable of MTU 1500 without offloads"
    offloads = "off"


@contextlib.contextmanager
def inside(netns):
    """This thread, and what it starts, in another network namespace for the time of the block."""
    with open("/proc/thread-self/ns/net") as home:
        enter_netns(f"/run/netns/{netns}")
        try:
            yield
        finally:
            set_netns(home)


def enter_netns(path):
    try:
        with open(path) as place:
            set_netns(place)
    except OSError as error:
        raise BenchError(f"cannot enter the network namespace {path}: {error}") from error


def set_netns(file):
    # os.setns() is younger than Debian 12's Python.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
