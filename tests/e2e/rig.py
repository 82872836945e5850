"""Whole tunnels for the tests: a Rig is an edge, an agent and a service; a Yard makes and ends what one test starts."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

import net
from net import host_port, wait_until
from processes import Agent, Edge
from relay import Relay
from sockets import Service, check_echo, connect

WORKERS = int(os.environ.get("NATRP_E2E_WORKERS", "2"))
# The size of "one GiB", as a factor; a sanitizer run wants less.
GIB = float(os.environ.get("NATRP_E2E_GIB", "1"))
PUBLIC_PORTS = 40


class Setup(NamedTuple):
    """What a suite is run over."""

    io: str
    pump: str

    @property
    def name(self):
        return f"{self.io}-{self.pump}"

    @property
    def flags(self):
        return {"io": self.io, "pump": self.pump, "workers": WORKERS}


def scaled(size):
    """A big size, made smaller by NATRP_E2E_GIB."""
    return max(1, int(size * min(1.0, GIB)))


class Rig:
    """A service that visitors reach. pair() is one visitor and what it reached; settle() ends all of them."""

    def __init__(self, edge, agent, service):
        self.edge = edge
        self.agent = agent
        self.service = service
        self._peers = []

    @property
    def directory(self):
        """Where its processes keep what they said."""
        return self.edge.directory

    @property
    def address(self):
        return self.agent.addresses()[-1]

    def visit(self, **options):
        return self.keep(connect(self.address, **options))

    def keep(self, peer):
        self._peers.append(peer)
        return peer

    def accept(self, seconds=15):
        return self.keep(self.service.accept(seconds))

    def pair(self, **options):
        visitor = self.visit(**options)
        return visitor, self.accept()

    def pairs(self, count, **options):
        """`count` pairs at once. Connections reach the service in any order: each visitor says a number first."""
        visitors = [self.visit(**options) for _ in range(count)]
        for number, visitor in enumerate(visitors):
            visitor.send(b"%04d" % number)
        services = {}
        for _ in range(count):
            service = self.accept()
            services[int(service.receive(4))] = service
        return [(visitor, services[number]) for number, visitor in enumerate(visitors)]

    def check_echo(self):
        """A new visitor reaches the service, both ways."""
        visitor, service = self.pair()
        check_echo(visitor, service)
        visitor.close()
        service.close()

    def metric(self, name):
        return self.edge.metric(name)

    @property
    def healthy(self):
        return bool(self.edge.process.alive and self.agent.process.alive)

    def settle(self):
        """Closes every peer; the edge has to let go of every pair then."""
        for peer in self._peers:
            peer.close()
        self._peers.clear()
        if self.healthy:
            wait_until(lambda: self.metric("natrp_pairs_live") == 0, 20,
                       lambda: f"no pair left after both ends were closed\n{self.edge.process.describe()}")
        self.service.forget()


class RelayRig(Rig):
    """A plain Python relay in the place of the whole tunnel: the harness's own measure."""

    healthy = False  # there is no process to ask

    def __init__(self, **relay_options):
        super().__init__(None, None, Service())
        self.relay = Relay(self.service.address, **relay_options)

    @property
    def address(self):
        return self.relay.address

    def close(self):
        self.settle()
        self.relay.close()
        self.service.close()


class Yard:
    """Makes edges, agents, services and networks for one test, and ends them all."""

    def __init__(self, directory, setup):
        self.directory = Path(directory)
        self.setup = setup
        self._agents = []
        self._edges = []
        self._closers = []
        self._names = 0

    def path(self, name):
        """A path of this test's own that does not exist yet."""
        self._names += 1
        return self.directory / f"{self._names}-{name}"

    def closing(self, thing):
        self._closers.append(thing.close)
        return thing

    def service(self, **options):
        return self.closing(Service(**options))

    def peer(self, address, who="the visitor", **options):
        return self.closing(connect(address, who=who, **options))

    def edge_options(self, host=None, public_ports=PUBLIC_PORTS, **options):
        """The flags of an edge on addresses of its own. ports: see `public_ports`, or say it yourself."""
        host = host or net.loopback_address()
        bind, admin, *ports = net.free_ports(host, 2 + public_ports)
        return {"bind": host_port(host, bind), "public_address": host, "state": self.path("state"),
                "ports": f"{ports[0]}-{ports[-1]}", "admin": host_port(host, admin), "drain_seconds": 5,
                **self.setup.flags, **options}

    def edge(self, start=True, env=None, prefix=(), **options):
        edge = Edge(self.directory, self.edge_options(**options), env, prefix)
        self._edges.append(edge)
        return edge.start() if start else edge

    def agent(self, edge, token, local, start=True, env=None, prefix=(), **options):
        """An agent; `start=False` gives one that is not started, start="unready" one that is not awaited."""
        local = local if isinstance(local, str) else local.local
        agent = Agent(self.directory, {"server": edge.server, "token": token, "local": local, "drain_seconds": 5,
                                       **self.setup.flags, **options}, env, prefix)
        self._agents.append(agent)
        return agent.start(ready=start != "unready") if start else agent

    def rig(self, edge_options=None, agent_options=None, client=(), wire=False):
        """An edge, a client, an agent and a service; `wire` puts a Relay between agent and edge (rig.wire)."""
        edge = self.edge(**(edge_options or {}))
        token = edge.add_client("tester", *client)
        service = self.service()
        options = dict(agent_options or {})
        relay = None
        if wire:
            relay = self.closing(Relay(edge.bind))
            options["server"] = host_port(*relay.address)
        rig = Rig(edge, self.agent(edge, token, service, **options), service)
        rig.token = token
        rig.wire = relay
        self._closers.append(lambda: [peer.close() for peer in rig._peers])
        return rig

    def close(self):
        """Sockets first, so that nothing is left to drain; then agents, then edges. Complains at the end."""
        problems = []
        for close in reversed(self._closers):
            close()
        for group in (self._agents, self._edges):
            running = [one.process for one in group if one.process]
            for process in running:
                process.terminate()
            for process in running:
                try:
                    process.stop()
                except AssertionError as error:
                    problems.append(str(error))
        assert not problems, "\n\n".join(problems)


class Rigs:
    """One rig for each setup, kept for the whole run: what does not kill a process shares them."""

    def __init__(self, directory):
        self._directory = Path(directory)
        self._kept = {}

    def get(self, setup):
        yard, rig = self._kept.get(setup, (None, None))
        if rig is None or not rig.healthy:
            if yard:
                yard.close()
            directory = self._directory / f"{setup.name}-{len(os.listdir(self._directory))}"
            directory.mkdir()
            yard = Yard(directory, setup)
            self._kept.pop(setup, None)
            try:
                rig = yard.rig()
            except BaseException:
                yard.close()
                raise
            self._kept[setup] = yard, rig
        return rig

    def close(self):
        problems = []
        for yard, _ in self._kept.values():
            try:
                yard.close()
            except AssertionError as error:
                problems.append(str(error))
        self._kept.clear()
        assert not problems, "\n\n".join(problems)


def without_io_uring(error):
    """The prefix that runs a program on a kernel without io_uring."""
    return (sys.executable, str(Path(__file__).with_name("without_io_uring.py")), error)
