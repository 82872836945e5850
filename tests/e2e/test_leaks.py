"""Two thousand visitors come and go, and everything is back where it was."""

import resource

import pytest

from net import wait_until
from rig import WORKERS, Rig
from sockets import EchoService, connect

VISITORS = 2000
BATCH = 100
# Both ends of every visitor and of every service connection are in this process; an edge and an agent hold two each.
DESCRIPTORS = 2 * VISITORS + 500
# A worker keeps so many for its next streams (PipePool::trim), as soon as it had that many at once: perhaps only later.
KEPT_PIPES = 2 * WORKERS


def come(address, count):
    """`count` visitors that have all been answered and stay."""
    visitors = []
    while len(visitors) < count:
        batch = [connect(address, seconds=30) for _ in range(min(BATCH, count - len(visitors)))]
        for number, visitor in enumerate(batch):
            visitor.send(b"visit%03d" % number)
        for number, visitor in enumerate(batch):
            assert visitor.receive(8) == b"visit%03d" % number
        visitors += batch
    return visitors


def talk(visitors):
    """Enough at once on some of them that a direction may be promoted."""
    data = bytes(range(256)) * 800
    for visitor in visitors:
        visitor.send(data)
        assert visitor.receive(len(data)) == data


def leave(visitors):
    """Every way to go: by FIN, by RST, by plain close, and because the service closes first."""
    for number, visitor in enumerate(visitors):
        if number % 4 == 0:
            visitor.finish()
        elif number % 4 == 1:
            visitor.reset()
        elif number % 4 == 2:
            visitor.send(EchoService.GOODBYE)
    for number, visitor in enumerate(visitors):
        if number % 4 in (0, 2):
            visitor.receive_to_end(30)
        visitor.close()


class Held:
    """What edge and agent hold. Channels dialled ahead follow demand: they are taken out of the comparison. Pipes that
    are kept for the next streams count as held from the beginning."""

    def __init__(self, rig):
        values = rig.edge.metrics()
        self.ready = values["natrp_channels_ready"]
        self.pairs = values["natrp_pairs_live"]
        self.pipes = max(values["natrp_pipes_open"], KEPT_PIPES)
        self.conns = values["natrp_conns_live"]
        self.edge = rig.edge.process.descriptors()
        self.agent = rig.agent.process.descriptors()
        for held in (self.edge, self.agent):
            held["pipe"] = max(held["pipe"], 2 * KEPT_PIPES)

    def back_to(self, base):
        """Nothing, or the names of what is still held."""
        # Either the ready channels are among the live conns (then they are at rest, too) or they are not.
        channels = self.ready - base.ready if base.conns >= base.ready > 0 else 0
        more = {
            "pairs": self.pairs - base.pairs,
            "pipes": self.pipes - base.pipes,
            "conns": self.conns - channels - base.conns,
            "sockets of the edge": self.edge["socket"] - base.edge["socket"] - (self.ready - base.ready),
            "sockets of the agent": self.agent["socket"] - base.agent["socket"] - (self.ready - base.ready),
            "pipe ends of the edge": self.edge["pipe"] - base.edge["pipe"],
            "pipe ends of the agent": self.agent["pipe"] - base.agent["pipe"],
            "other descriptors of the edge": self.edge["other"] - base.edge["other"],
            "other descriptors of the agent": self.agent["other"] - base.agent["other"],
        }
        return {name: count for name, count in more.items() if count > 0}


def test_two_thousand_visitors_leave_no_descriptor_and_no_slot_behind(yard):
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < DESCRIPTORS:
        pytest.skip(f"needs {DESCRIPTORS} descriptors: raise the hard limit (ulimit -Hn)")
    edge = yard.edge()
    service = yard.closing(EchoService())
    agent = yard.agent(edge, edge.add_client("tester", "--conns-max", "5000"), service)
    rig = Rig(edge, agent, None)

    def quiet():
        return edge.metric("natrp_pairs_live") == 0 and service.live == 0

    warm = come(agent.address, 200)
    talk(warm[::10])
    leave(warm)
    wait_until(quiet, 30, "the first visitors are gone")
    base = Held(rig)

    visitors = come(agent.address, VISITORS)
    assert edge.metric("natrp_pairs_live") == VISITORS
    assert service.live == VISITORS
    talk(visitors[::100])
    leave(visitors)
    wait_until(quiet, 30, lambda: f"every pair ended; {edge.metric('natrp_pairs_live'):g} live, "
                                  f"{service.live} at the service")

    wait_until(lambda: not Held(rig).back_to(base), 30, lambda: f"still held: {Held(rig).back_to(base)}")
    last = come(agent.address, 10)
    leave(last)
