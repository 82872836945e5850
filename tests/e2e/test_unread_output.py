"""Standard error and standard output that nobody reads: a log collector that stands still, a script that has died."""

import contextlib
import os
import re
import time

import pytest

from conftest import LOOPS
from net import patient, wait_until
from rig import Setup

pytestmark = pytest.mark.over([Setup(LOOPS[0], "auto")])


class Unread:
    """A pipe with a name, that a program started behind `prefix` has as its descriptor. Full, until take()."""

    def __init__(self, path, descriptor):
        os.mkfifo(path)
        self.prefix = ("sh", "-c", f'exec "$@" {descriptor}>"{path}"', "sh")
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._said = b""
        self.fill()

    def fill(self):
        for size in (65536, 4096, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(self._fd, b"#" * (size - 1) + b"\n")

    def take(self):
        """All that was said since the pipe was read first."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._said += os.read(self._fd, 65536)
        return "\n".join(line for line in self._said.decode().splitlines() if line.strip("#"))

    def close(self):
        os.close(self._fd)


def test_an_edge_whose_log_nobody_reads_serves_agents_and_visitors(yard):
    log = yard.closing(Unread(yard.path("log"), 2))
    edge = yard.edge(start=False, prefix=log.prefix).start(ready=False)
    wait_until(lambda: os.path.exists(f"{edge.state}/natrp.db"), 15, "the edge has a store")
    token, service = edge.add_client(), yard.service()
    agents = [yard.agent(edge, token, service, name=f"tunnel-{number}") for number in range(3)]
    for agent in agents:
        visitor = yard.peer(agent.address)
        visitor.send(b"hello")
        assert yard.closing(service.accept()).receive(5) == b"hello"
    assert edge.get("/healthz") == "ok\n"
    # Its start, and of each agent its session and its lease.
    assert edge.metric("natrp_log_lines_lost_total") >= 7
    wait_until(lambda: "were lost" in log.take(), 5, "the log says what was lost, without another line")
    (told,) = re.findall(r"warning lines of this log were lost lines=(\d+) why=\"nobody read them\"", log.take())
    assert int(told) == edge.metric("natrp_log_lines_lost_total")
    agents[0].process.terminate()
    wait_until(lambda: "session ended" in log.take(), 5, lambda: f"the log goes on:\n{log.take()}")


def test_an_edge_stops_though_nobody_reads_its_log(yard):
    log = yard.closing(Unread(yard.path("log"), 2))
    edge = yard.edge(start=False, prefix=log.prefix).start(ready=False)
    wait_until(lambda: os.path.exists(f"{edge.state}/natrp.db"), 15, "the edge has a store")
    began = time.monotonic()
    edge.process.stop()
    assert time.monotonic() - began < patient(5)


def test_an_agent_whose_address_nobody_reads_serves_and_prints_it_later(yard):
    output = yard.closing(Unread(yard.path("output"), 1))
    edge, service = yard.edge(), yard.service()
    agent = yard.agent(edge, edge.add_client(), service, start="unready", prefix=output.prefix)
    found = agent.process.wait_for(r'a public address could not be printed .* public=(\S+):(\d+) why="nobody reads it"')
    visitor = yard.peer((found[1], int(found[2])))
    visitor.send(b"hello")
    assert yard.closing(service.accept()).receive(5) == b"hello"
    wait_until(lambda: output.take() == f"public address: {found[1]}:{found[2]}", 5,
               lambda: f"the address, and nothing else:\n{output.take()}")


def test_an_agent_whose_log_nobody_reads_serves(yard):
    log = yard.closing(Unread(yard.path("log"), 2))
    edge, service = yard.edge(), yard.service()
    agent = yard.agent(edge, edge.add_client(), service, prefix=log.prefix)
    visitor = yard.peer(agent.address)
    visitor.send(b"hello")
    assert yard.closing(service.accept()).receive(5) == b"hello"
    log.take()
    wait_until(lambda: "were lost" in log.take(), 5, "the log says what was lost")
