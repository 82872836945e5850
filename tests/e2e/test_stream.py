"""Bytes arrive: every size, both ways, at once, slowly and in bulk."""

import socket
import time

import pytest

from conftest import DATA_PATH
from rig import GIB, Setup, scaled
from sockets import FIN, Content, Task, check_echo, check_received, exchange

pytestmark = pytest.mark.over(DATA_PATH)

EDGE_SIZES = [0, 1, 1447, 1448, 1449, 4095, 4096, 4097, 16383, 16384, 16385, 65535, 65536, 65537, 1024 * 1024]


def test_a_request_reaches_the_service_and_its_answer_the_visitor(rig):
    visitor, service = rig.pair()
    for size in (1, 64, 1000, 30_000):
        check_echo(visitor, service, size)
    exchange(visitor, service, Content(0), Content(0))


def test_the_service_is_reached_before_the_visitor_says_a_word(rig):
    visitor, service = rig.pair()
    service.send(b"220 the service speaks first\r\n")
    assert visitor.receive(30) == b"220 the service speaks first\r\n"


def test_writes_of_one_byte_arrive_in_order(rig):
    visitor, service = rig.pair()
    exchange(visitor, service, Content(2_000, 5), Content(2_000, 6), step=1)


def test_an_urgent_byte_keeps_its_place_in_the_stream(rig):
    visitor, service = rig.pair()
    for sender, receiver in ((visitor, service), (service, visitor)):
        for urgent in range(3):
            sender.send(b"abc")
            sender.sock.send(b"!", socket.MSG_OOB)
            sender.send(b"def" * (1 + 20_000 * urgent))
            expected = b"abc!" + b"def" * (1 + 20_000 * urgent)
            assert receiver.receive(len(expected)) == expected


def test_two_hundred_round_trips_of_one_byte(rig):
    visitor, service = rig.pair()
    for number in range(200):
        byte = bytes([number])
        visitor.send(byte)
        assert service.receive(1) == byte
        service.send(byte)
        assert visitor.receive(1) == byte


def test_every_size_arrives_whole_in_both_directions_at_once(rig):
    for size in EDGE_SIZES:
        visitor, service = rig.pair()
        exchange(visitor, service, Content(size, 7), Content(size, 8))


def test_unlike_sizes_flow_against_each_other(rig):
    for up, down in ((scaled(20_000_003), 1), (0, scaled(20_000_003)), (scaled(9_999_999), scaled(10_000_001))):
        visitor, service = rig.pair()
        exchange(visitor, service, Content(up, 9), Content(down, 10))


def test_thirty_streams_at_once_do_not_mix(rig):
    size = scaled(1_500_000)
    tasks = []
    for number, (visitor, service) in enumerate(rig.pairs(30)):
        tasks.append(Task(exchange, visitor, service, Content(size + number, 20 + number),
                          Content(size + 40 - number, 60 + number)))
    for task in tasks:
        task.result()


def test_a_gib_to_the_service_keeps_its_sha256(rig):
    visitor, service = rig.pair()
    content = Content(GIB * 1024**3, 11)
    sender = Task(visitor.send_content, content, finish=True)
    check_received(service.receive_to_end(), content, who="the service")
    sender.result()


def test_a_gib_to_the_visitor_keeps_its_sha256(rig):
    visitor, service = rig.pair()
    content = Content(GIB * 1024**3, 12)
    sender = Task(service.send_content, content, finish=True)
    check_received(visitor.receive_to_end(), content, who="the visitor")
    sender.result()


def test_visitors_that_do_not_read_stop_nobody_else(rig):
    content = Content(48 * 1024 * 1024, 13)
    slow = rig.pairs(4, receive_buffer=64 * 1024)
    senders = [Task(service.send_content, content, finish=True) for _, service in slow]
    for visitor, _ in slow:
        visitor.receive(1)  # its transfer has begun

    visitor, service = rig.pair()
    check_echo(visitor, service)
    exchange(visitor, service, Content(scaled(8_000_000), 14), Content(scaled(8_000_000), 15))

    assert not any(sender.done for sender in senders), "the slow visitors' transfers were not held back at all"
    rest = content.after(1)
    for visitor, _ in slow:
        check_received(visitor.receive_to_end(), rest, ending=FIN, who="a slow visitor")
    for sender in senders:
        sender.result()


@pytest.mark.over([Setup("uring", "auto"), Setup("epoll", "splice")])
def test_readers_that_pause_for_longer_than_any_timeout_get_all_their_bytes(rig):
    """A closed window, whose peer answers every probe, is no dead peer: visitors and services may take their time."""
    content = Content(scaled(48_000_000), 77)
    download, upload = rig.pair(), rig.pair()
    ends = [(download[1], download[0]), (upload[0], upload[1])]
    writers = [Task(writer.send_content, content, finish=True) for writer, _ in ends]
    time.sleep(25)
    for _, reader in ends:
        check_received(reader.receive_to_end(), content)
    for writer in writers:
        writer.result()
