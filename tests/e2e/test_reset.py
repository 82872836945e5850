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


# A process that is killed has not said all that it had to say, and the kernel closes its sockets: nobody may take that
# for the end of a stream.


@pytest.mark.parametrize("role", ["edge", "agent"])
def test_a_process_that_is_killed_resets_both_ends(yard, role):
    rig = yard.rig()
    idle, visitor_finished, service_finished = rig.pairs(3)
    for visitor, service in (idle, visitor_finished, service_finished):
        check_echo(visitor, service)
    visitor_finished[0].finish()
    assert visitor_finished[1].wait_ended(15) == FIN
    service_finished[1].finish()
    assert service_finished[0].wait_ended(15) == FIN
    getattr(rig, role).process.kill()
    for peer in (*idle, visitor_finished[0], service_finished[1]):
        assert peer.wait_ended(15) == RESET, peer.who
    for peer in (visitor_finished[1], service_finished[0]):
        peer.wait_reset(15)
    survivor = rig.agent if role == "edge" else rig.edge
    assert survivor.process.alive
    if role == "edge":
        assert is_refused(rig.address)


def test_a_visitor_that_meets_the_channel_of_a_killed_agent_gets_no_empty_answer(yard):
    rig = yard.rig()
    with rig.edge.process.frozen():
        visitors = [rig.visit() for _ in range(5)]
        rig.agent.process.kill()
    for visitor in visitors:
        assert visitor.wait_ended(15) == RESET
