"""A data channel that carried a short visitor carries the next one, and nobody gets a byte of somebody else's."""

import threading

import pytest

from conftest import CONTROL, DATA_PATH
from net import wait_until
from rig import Rig
from sockets import FIN, Content, EchoService, check_received, connect

READY_MOST = 128  # docs/protocol.md, section 9
# A rate of visitors that grows has as many channels dialled, however these come back: 64, and some. One for each
# visitor would be more than twice as many.
VISITORS = 300
DIALLED_MOST = 130
PUMPS = ("auto", "splice", "uring", "copy")


def echoed(address, number, closes_first):
    """One visitor of an EchoService, with bytes of its own."""
    visitor = connect(address)
    said = (b"visitor %d." % number) * (number % 9 + 1)
    visitor.send(said)
    assert visitor.receive(len(said)) == said
    if closes_first:
        visitor.finish()
    else:
        visitor.send(EchoService.GOODBYE)
        assert visitor.receive(len(EchoService.GOODBYE)) == EchoService.GOODBYE
    received = visitor.receive_to_end()
    visitor.close()
    assert (received.size, received.ending) == (0, FIN)


def channels(edge):
    values = edge.metrics()
    return values["natrp_channels_opened_total"], values["natrp_channels_returned_total"]


@pytest.mark.over(CONTROL + DATA_PATH)
@pytest.mark.parametrize("first", ["visitor", "service"])
def test_visitors_one_after_the_other_share_channels(yard, setup, first):
    edge = yard.edge()
    service = yard.closing(EchoService())
    agent = yard.agent(edge, edge.add_client(), service)
    address = agent.addresses()[-1]
    for number in range(VISITORS):
        echoed(address, number, closes_first=first == "visitor")
    if setup.pump == "splice":  # its bytes do not pass through the program, which so cannot tell of their end
        assert channels(edge)[1] == 0
        return
    wait_until(lambda: channels(edge)[1] >= VISITORS - DIALLED_MOST, 10,
               lambda: f"channels come back: {channels(edge)}")
    opened, returned = channels(edge)
    assert opened <= DIALLED_MOST, f"{opened} dialled, {returned} returned"
    wait_until(lambda: edge.metric("natrp_conns_live") == edge.metric("natrp_channels_ready"), 10,
               lambda: f"nothing but ready channels is left: {edge.metrics()}")
    assert edge.metric("natrp_channels_lost_total") == 0


@pytest.mark.over(CONTROL)
@pytest.mark.parametrize("edge_pump", PUMPS)
@pytest.mark.parametrize("agent_pump", PUMPS)
def test_ends_with_different_pumps_understand_each_other(yard, edge_pump, agent_pump):
    edge = yard.edge(pump=edge_pump)
    service = yard.closing(EchoService())
    agent = yard.agent(edge, edge.add_client(), service, pump=agent_pump)
    address = agent.addresses()[-1]
    for number in range(10):
        echoed(address, number, closes_first=number % 2 == 0)
    content = Content(3_000_000, seed=5)
    visitor = connect(address)
    sender = threading.Thread(target=visitor.send_content, args=(content,), kwargs={"finish": True}, daemon=True)
    sender.start()
    check_received(visitor.receive_to_end(), content)
    sender.join()
    visitor.close()
    if "splice" in (edge_pump, agent_pump):
        assert channels(edge)[1] == 0
    else:
        wait_until(lambda: channels(edge)[1] > 0, 10, lambda: f"channels come back: {channels(edge)}")


@pytest.mark.over(CONTROL)
def test_a_burst_leaves_no_more_channels_than_are_wanted(yard):
    edge = yard.edge()
    service = yard.closing(EchoService())
    agent = yard.agent(edge, edge.add_client(), service)
    rig = Rig(edge, agent, service)
    visitors = [connect(rig.address) for _ in range(200)]
    for number, visitor in enumerate(visitors):
        visitor.send(b"%03d" % number)
    for number, visitor in enumerate(visitors):
        assert visitor.receive(3) == b"%03d" % number
    for visitor in visitors:
        visitor.close()
    wait_until(lambda: edge.metric("natrp_pairs_live") == 0, 15, "the visitors are gone")
    wait_until(lambda: edge.metric("natrp_channels_ready") <= READY_MOST and
               edge.metric("natrp_conns_live") == edge.metric("natrp_channels_ready"), 15,
               lambda: f"what nobody wants is closed: {edge.metrics()}")
    echoed(rig.address, 7, closes_first=True)


@pytest.mark.over(CONTROL)
def test_a_channel_of_a_session_that_was_lost_does_not_come_back(yard):
    rig = yard.rig(wire=True)
    visitor, service = rig.pair()
    visitor.send(b"before")
    assert service.receive(6) == b"before"
    next(link for link in rig.wire.live() if link.up.head[:1] == b"\x16").cut()
    rig.agent.wait_address(2)
    returned = channels(rig.edge)[1]
    service.send(b"after")
    assert visitor.receive(5) == b"after"
    visitor.finish()
    assert service.receive_to_end().ending == FIN
    service.finish()
    assert visitor.receive_to_end().ending == FIN
    rig.settle()
    assert channels(rig.edge)[1] == returned
    rig.check_echo()


@pytest.mark.over(CONTROL + DATA_PATH)
def test_a_reset_visitor_leaves_nothing_to_the_next(rig, setup):
    for number in range(20):
        visitor, service = rig.pair()
        visitor.send(b"mine %d" % number)
        assert service.receive(len(b"mine %d" % number)) == b"mine %d" % number
        (visitor if number % 2 else service).reset()
        rig.check_echo()
