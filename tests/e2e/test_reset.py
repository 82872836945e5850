"""RST is carried as RST on each of the four legs, behind the bytes that were sent before it."""

import os
import time

import pytest

from conftest import DATA_PATH
from net import wait_until
from sockets import FIN, RESET, Content, Task, check_echo, check_received, is_refused, unsent

pytestmark = pytest.mark.over(DATA_PATH)

# Small enough for every kernel buffer on the way: who resets can know that its bytes have left.
BEFORE = 100_000


def ends(rig, by_visitor):
    """(who resets, who has to see it) of a new pair."""
    visitor, service = rig.pair()
    return (visitor, service) if by_visitor else (service, visitor)


def bytes_then_reset(rig, by_visitor, reads_after=0.0):
    content = Content(BEFORE, 41)
    sender, receiver = ends(rig, by_visitor)
    sender.send_content(content)
    sender.wait_sent()
    sender.reset()
    time.sleep(reads_after)
    check_received(receiver.receive_to_end(15), content, RESET, receiver.who)


def test_the_service_sees_the_bytes_and_then_the_reset_of_its_visitor(rig):
    bytes_then_reset(rig, by_visitor=True)


def test_the_visitor_sees_the_bytes_and_then_the_reset_of_the_service(rig):
    bytes_then_reset(rig, by_visitor=False)


def test_bytes_before_a_reset_reach_a_receiver_that_reads_late(rig):
    bytes_then_reset(rig, by_visitor=True, reads_after=0.3)
    bytes_then_reset(rig, by_visitor=False, reads_after=0.3)


def test_a_reset_of_an_idle_connection_is_carried(rig):
    for by_visitor in (True, False):
        sender, receiver = ends(rig, by_visitor)
        check_echo(sender, receiver)
        sender.reset()
        check_received(receiver.receive_to_end(15), Content(0), RESET, receiver.who)


def test_a_receiver_that_resets_ends_the_sender(rig):
    for by_visitor in (True, False):
        receiver, sender = ends(rig, by_visitor)
        task = Task(sender.send_content, Content(500_000_000, 42))
        receiver.receive(100_000)
        receiver.reset()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            task.result(30)


def test_a_pair_that_both_ends_have_reset_is_let_go_at_once(rig):
    # Bytes that nobody can acknowledge any more are nothing to wait for.
    for by_visitor in (True, False):
        if by_visitor:
            sender, receiver = rig.pair()
        else:
            receiver, sender = rig.pair(receive_buffer=64 * 1024)
        flood = Task(sender.send_content, Content(500_000_000, 46))
        receiver.receive(1)
        time.sleep(0.3)
        assert not flood.done
        sender.reset_under_way()
        time.sleep(0.2)
        receiver.reset()
        wait_until(lambda: rig.metric("natrp_pairs_live") == 0, 5, "the pair ended")
        with pytest.raises(OSError):
            flood.result(10)


def reset_while_half_closed(rig, by_visitor, seconds=10):
    """FIN one way, silence, then RST from the same end; the other end can only be told by its poll()."""
    sender, receiver = ends(rig, by_visitor)
    check_echo(sender, receiver)
    sender.finish()
    assert receiver.receive_to_end().ending == FIN
    time.sleep(0.2)
    sender.reset()
    return receiver.wait_reset(seconds)


@pytest.mark.parametrize("by_visitor", [True, False], ids=["visitor", "service"])
def test_a_reset_after_fin_is_carried_within_a_second_although_nothing_flows(rig, by_visitor):
    # One of three has to be prompt: the machine may be busy, but the engine may not wait for anything.
    waits = []
    while len(waits) < 3 and not any(wait < 1 for wait in waits):
        waits.append(reset_while_half_closed(rig, by_visitor))
    assert min(waits) < 1, f"the RST took {waits} s"


def test_who_has_finished_sees_the_reset_of_the_other_end(rig):
    for by_visitor in (True, False):
        receiver, sender = ends(rig, by_visitor)
        receiver.finish()
        assert sender.receive_to_end().ending == FIN
        sender.send_content(Content(1000, 43))
        sender.wait_sent()
        sender.reset()
        check_received(receiver.receive_to_end(15), Content(1000, 43), RESET, receiver.who)


# --- the leg in the middle -----------------------------------------------------------------------------

def test_a_data_channel_that_is_reset_resets_visitor_and_service(yard):
    rig = yard.rig(wire=True)
    visitor, service = rig.pair()
    down, up = Content(50_000, 44), Content(40_000, 45)
    marker_down, marker_up = os.urandom(16), os.urandom(16)
    service.send(bytes(down) + marker_down)
    visitor.send(bytes(up) + marker_up)
    link = rig.wire.carrying(marker_down)
    assert rig.wire.carrying(marker_up) is link
    # The relay holds no bytes for anybody, and both kernels beside it have acknowledged theirs.
    link_is_empty(link)

    link.reset_far()
    assert visitor.receive(down.size) == bytes(down)
    assert visitor.receive(16) == marker_down
    check_received(visitor.receive_to_end(15), Content(0), RESET, "the visitor")

    link.reset_near()
    assert service.receive(up.size) == bytes(up)
    assert service.receive(16) == marker_up
    check_received(service.receive_to_end(15), Content(0), RESET, "the service")

    rig.check_echo()


def link_is_empty(link):
    wait_until(lambda: not link.up.held and not link.down.held and not unsent(link.near) and not unsent(link.far),
               10, "the bytes left the relay between agent and edge")


def test_an_agent_that_is_killed_ends_its_visitors_and_leaves_its_service(yard):
    rig = yard.rig()
    visitor, service = rig.pair()
    check_echo(visitor, service)
    rig.agent.process.kill()
    assert visitor.wait_ended(15) in (FIN, RESET)
    assert service.wait_ended(15) in (FIN, RESET)
    assert rig.edge.process.alive


def test_an_edge_that_is_killed_ends_the_connections_to_the_service(yard):
    rig = yard.rig()
    visitor, service = rig.pair()
    check_echo(visitor, service)
    rig.edge.process.kill()
    assert service.wait_ended(15) in (FIN, RESET)
    assert visitor.wait_ended(15) in (FIN, RESET)
    assert is_refused(rig.address)
    assert rig.agent.process.alive
