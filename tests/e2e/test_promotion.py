"""A direction changes between copying and splicing while bytes flow, and nobody can tell from the bytes."""

import random
import time

import pytest

from conftest import CONTROL, DATA_PATH, LOOPS
from net import wait_until
from rig import Setup
from sockets import Content, Task, check_received

PIPES = [Setup(io, pump) for io in LOOPS for pump in ("splice", "auto")]


class Line:
    """One direction of one connection as a sequence of messages, each checked at its place in the stream."""

    def __init__(self, sender, receiver, seed):
        self.sender = sender
        self.receiver = receiver
        self.content = Content(1 << 40, seed)
        self.offset = 0

    def carry(self, size):
        wanted = self.content.slice(self.offset, size)
        task = Task(self.sender.send, wanted)
        got = self.receiver.receive(size, 60)
        task.result()
        assert got == wanted, f"{self.receiver.who} got other bytes at {self.offset}..{self.offset + size}"
        self.offset += size


def both(up, down, up_size, down_size):
    task = Task(up.carry, up_size)
    down.carry(down_size)
    task.result()


@pytest.mark.over(DATA_PATH + CONTROL)
def test_bursts_silence_and_small_talk_on_one_connection_lose_no_byte(rig, setup):
    random_sizes = random.Random(51)
    promotions, demotions = rig.metric("natrp_promotions_total"), rig.metric("natrp_demotions_total")
    visitor, service = rig.pair()
    up, down = Line(visitor, service, 52), Line(service, visitor, 53)

    # (bytes up, bytes down, silence after them): odd offsets, each direction alone and both at once.
    for up_size, down_size, silence in ((3_000_017, 2_000_003, 1.2), (0, 4_194_301, 0), (2_097_153, 0, 1.2),
                                        (65_537, 1_048_577, 0), (5_000_011, 3_333_333, 0)):
        both(up, down, up_size, down_size)
        time.sleep(silence)
        for _ in range(12):
            up.carry(random_sizes.randint(1, 4000))
            down.carry(random_sizes.randint(1, 4000))

    for first, second in ((visitor, service), (service, visitor)):
        first.finish()
        check_received(second.receive_to_end(15), Content(0), who=second.who)
    if setup.pump == "auto":
        assert rig.metric("natrp_promotions_total") > promotions, "no direction was ever promoted to bulk"
        assert rig.metric("natrp_demotions_total") > demotions, "no direction was ever demoted to copy"


@pytest.mark.over(PIPES)
def test_an_exhausted_pipe_pool_means_copying_not_failure(yard):
    rig = yard.rig(edge_options={"workers": 1, "pipes_max": 2})
    content = Content(12 * 1024 * 1024, 54)
    pairs = rig.pairs(20, receive_buffer=64 * 1024)
    senders = [Task(service.send_content, content, finish=True) for _, service in pairs]
    # Nobody reads, so that every direction has bytes in flight at the same time.
    for visitor, _ in pairs:
        visitor.receive(1)
    wait_until(lambda: rig.metric("natrp_pipes_exhausted_total") > 0, 15, "the edge counted an exhausted pipe pool")
    assert rig.metric("natrp_pipes_open") <= 2
    receivers = [Task(visitor.receive_to_end) for visitor, _ in pairs]
    for receiver in receivers:
        check_received(receiver.result(), content.after(1), who="a visitor")
    for sender in senders:
        sender.result()
    assert rig.metric("natrp_pipes_open") <= 2
    rig.check_echo()
