"""FIN is carried as FIN, in one direction at a time, behind the bytes before it."""

import time

import pytest

from conftest import DATA_PATH
from rig import scaled
from sockets import FIN, Content, Task, check_received

pytestmark = pytest.mark.over(DATA_PATH)

BULK = scaled(100_000_000)


def half_close(first, second, bulk):
    """`first` says a little and FIN; `second` sees both, then sends `bulk` bytes the other way."""
    question = Content(100_000, 31)
    first.send_content(question, finish=True)
    check_received(second.receive_to_end(), question, FIN, second.who)
    answer = Content(bulk, 32)
    sender = Task(second.send_content, answer, finish=True)
    check_received(first.receive_to_end(), answer, FIN, first.who)
    sender.result()


def test_a_visitor_that_finishes_first_still_gets_the_whole_answer(rig):
    visitor, service = rig.pair()
    half_close(visitor, service, BULK)


def test_a_service_that_finishes_first_still_gets_the_whole_upload(rig):
    visitor, service = rig.pair()
    half_close(service, visitor, BULK)


def test_a_fin_without_a_byte_before_it_is_carried(rig):
    visitor, service = rig.pair()
    half = Content(0)
    visitor.finish()
    check_received(service.receive_to_end(), half, FIN, "the service")
    service.send(b"still here")
    assert visitor.receive(10) == b"still here"
    service.finish()
    check_received(visitor.receive_to_end(), half, FIN, "the visitor")


def test_a_fin_is_not_carried_into_the_other_direction(rig):
    for by_visitor in (True, False):
        visitor, service = rig.pair()
        first, second = (visitor, service) if by_visitor else (service, visitor)
        first.finish()
        assert second.receive_to_end().ending == FIN
        first.assert_open()
        for _ in range(5):
            second.send(b"later")
            assert first.receive(5) == b"later"
            time.sleep(0.05)
        second.finish()
        assert first.receive_to_end().ending == FIN


def test_the_last_bytes_before_fin_reach_a_receiver_that_reads_late(rig):
    for to_visitor in (True, False):
        visitor, service = rig.pair()
        sender, receiver = (service, visitor) if to_visitor else (visitor, service)
        content = Content(3_000_001, 33)
        task = Task(sender.send_content, content, finish=True)
        time.sleep(0.3)
        check_received(receiver.receive_to_end(), content, FIN, receiver.who)
        task.result()
