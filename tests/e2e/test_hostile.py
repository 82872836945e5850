"""Strangers on the public control port cost their own connection and one counter, nothing else."""

import contextlib
import os
import random
import select
import time

import pytest

from conftest import LOOPS
from net import patient, wait_until
from rig import Setup
from sockets import Task, check_echo, connect

HELLO_BYTES = 64

GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n",
    b"POST /login HTTP/1.0\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x00" * 64,
    b"\xff" * 64,
    b"\x05\x01\x00",  # SOCKS 5
    b"\x04\x01\x00\x50",  # SOCKS 4
    b"\x80\x2e\x01\x00\x02",  # a hello of SSL 2
    b"\x15\x03\x01\x00\x02\x02\x28",  # a TLS alert
    b"n" + b"\x00" * 63,
    b"\r\n\r\n\x00\r\nQUIT\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"\x03\x00\x00\x13\x0e\xe0",  # remote desktop
    b"x",
    random.Random(71).randbytes(5000).replace(b"N", b"x").replace(b"\x16", b"x").replace(b"P", b"x"),
]


def say(edge, data):
    """A stranger that has said `data` to the control port."""
    stranger = connect(edge.bind, who="the stranger")
    try:
        stranger.send(data)
    except (ConnectionResetError, BrokenPipeError):
        pass  # closed while it still spoke
    return stranger


def assert_closed(stranger, seconds, what):
    """It is closed, and was not told a byte (a TLS alert may be)."""
    try:
        received = stranger.receive_to_end(seconds)
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from None
    finally:
        stranger.close()
    assert received.size <= 64, f"{what} was answered with {received.size} bytes"


def test_garbage_costs_its_own_connection_and_one_count_each(rig):
    visitor, service = rig.pair()
    refused = rig.metric("natrp_garbage_refused_total")
    for data in GARBAGE:
        assert_closed(say(rig.edge, data), 10, f"the stranger who said {data[:20]!r}")
        check_echo(visitor, service, 100)
    wait_until(lambda: rig.metric("natrp_garbage_refused_total") - refused >= len(GARBAGE), 10,
               lambda: f"{len(GARBAGE)} strangers were counted, not "
                       f"{rig.metric('natrp_garbage_refused_total') - refused:g}")
    assert rig.metric("natrp_garbage_refused_total") - refused == len(GARBAGE)
    rig.check_echo()


def test_a_flood_of_garbage_does_not_stop_a_visitor(rig):
    visitor, service = rig.pair()

    def flood():
        for number in range(300):
            say(rig.edge, GARBAGE[number % len(GARBAGE)]).close()

    floods = [Task(flood) for _ in range(2)]
    rounds = 0
    while not all(task.done for task in floods) or rounds < 20:
        check_echo(visitor, service, 500)
        rounds += 1
    for task in floods:
        task.result()
    rig.check_echo()


def test_what_begins_like_tls_and_is_none_is_closed(rig):
    for data in (b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\xff\xff" + b"\x00" * 70_000, b"\x16" * 600):
        assert_closed(say(rig.edge, data), 15, f"the stranger who said {data[:10]!r}")
    rig.check_echo()


@pytest.mark.over([Setup(LOOPS[0], "auto")])
def test_a_flood_of_handshakes_takes_no_more_than_the_descriptors_of_sessions(yard):
    edge = yard.edge(prefix=["prlimit", "--nofile=1024:1024", "--"])
    service = yard.service()
    agent = yard.agent(edge, edge.add_client(), service)
    wait_until(lambda: edge.metric("natrp_channels_ready") == 2, 10, "the agent's channels are ready")
    before = edge.process.descriptors()["socket"]
    most = 2 * 128 - 1  # an eighth for sessions, of which one is there, and as many on their way to one
    flood = []

    def refused():
        return edge.metric("natrp_handshakes_refused_total")

    def were_heard():
        accepted = refused() + edge.process.descriptors()["socket"] - before
        # Nearly all: a conn of the admin server may have been among those before.
        return accepted > len(flood) - 5 and edge.metric("natrp_conns_live") == edge.metric("natrp_channels_ready")

    # A worker keeps 90 here whose first byte it has not read: a flood that is faster than it has its oldest displaced.
    while len(flood) < 400:
        flood += [say(edge, b"\x16") for _ in range(40)]
        wait_until(were_heard, 5, lambda: f"{len(flood)} were heard: {edge.process.descriptors()}, {edge.metrics()}")
    wait_until(lambda: refused() == 400 - most, 10, lambda: f"{400 - most} are turned away, not {refused()}")
    assert edge.metric("natrp_accept_pauses_total") == 0
    with contextlib.closing(connect(agent.address)) as visitor, contextlib.closing(service.accept()) as served:
        check_echo(visitor, served)
    for stranger in flood:
        stranger.close()


@pytest.mark.over([Setup(LOOPS[0], "auto")])
def test_one_clients_tunnels_leave_descriptors_to_the_visitors_of_others(yard):
    edge = yard.edge(prefix=["prlimit", "--nofile=1024:1024", "--"], ports="20000-20999")
    service = yard.service()
    agent = yard.agent(edge, edge.add_client(), service)
    config = yard.path("greedy.toml")
    config.write_text("".join(f'[[tunnel]]\nname = "t{number}"\nlocal = "127.0.0.1:9"\n' for number in range(250)),
                      encoding="ascii")
    greedy = yard.agent(edge, edge.add_client("greedy"), service, start=False, config=config)
    greedy.options["local"] = None
    greedy.start(ready=False)
    greedy.process.wait_for("tunnel refused for now: this edge has 128 ports open, as many as its descriptor limit", 20)
    with contextlib.closing(connect(agent.address)) as visitor, contextlib.closing(service.accept()) as served:
        check_echo(visitor, served)
    assert edge.metric("natrp_accept_pauses_total") == 0


def test_strangers_who_connect_and_leave_cost_nothing(rig):
    for number in range(100):
        stranger = connect(rig.edge.bind)
        if number % 3 == 1:
            stranger.send(b"N")
        if number % 3 == 2:
            stranger.reset()
        stranger.close()
    rig.check_echo()


def test_slow_hellos_are_closed_in_five_seconds_and_hold_up_nobody(rig):
    visitor, service = rig.pair()
    timeouts = rig.metric("natrp_hello_timeouts_total")
    kinds = [b"", b"N", b"NTRP", b"\x16", b"\x16\x03\x01\x02\x00\x01"]
    slow = [say(rig.edge, kinds[number % len(kinds)]) for number in range(30)]
    start = time.monotonic()
    while time.monotonic() - start < 1.0:
        check_echo(visitor, service, 500)
        rig.check_echo()
        time.sleep(0.1)
    poll = select.poll()
    for stranger in slow:
        poll.register(stranger.sock, select.POLLIN)
    left = {stranger.sock.fileno() for stranger in slow}
    while left and time.monotonic() - start < patient(15):
        for fd, _ in poll.poll(500):
            poll.unregister(fd)
            left.discard(fd)
    took = time.monotonic() - start
    assert not left, f"{len(left)} of {len(slow)} slow strangers were still connected after {took:.1f} s"
    assert took > 1, "they were closed before their time was over: nothing was measured"
    for stranger in slow:
        stranger.close()
    wait_until(lambda: rig.metric("natrp_hello_timeouts_total") - timeouts >= 12, 10,
               "the slow hellos of data channels were counted")
    rig.check_echo()


def test_a_hello_that_drips_byte_by_byte_is_closed_too(rig):
    stranger = connect(rig.edge.bind)
    start = time.monotonic()
    closed = False
    for byte in b"NTRP" + bytes(HELLO_BYTES - 5):
        try:
            stranger.send(bytes([byte]))
        except (ConnectionResetError, BrokenPipeError):
            closed = True
            break
        readable, _, _ = select.select([stranger.sock], [], [], 0.4)
        if readable:
            closed = True
            break
        if time.monotonic() - start > patient(15):
            break
    assert closed, "a hello of one byte each 0.4 s was listened to for 15 s"
    stranger.close()
    rig.check_echo()


def forged_hellos():
    yield b"NTRP" + bytes(HELLO_BYTES - 4)
    yield b"NTRP\x01" + bytes(HELLO_BYTES - 5)
    yield b"NTRP\x01" + os.urandom(HELLO_BYTES - 5)
    yield b"NTRP" + b"\xff" * (HELLO_BYTES - 4)
    yield b"NOPE" + os.urandom(HELLO_BYTES - 4)


def test_forged_tickets_are_refused_and_counted(rig):
    def counted():
        values = rig.edge.metrics()
        return values["natrp_hello_refused_total"] + values["natrp_garbage_refused_total"]

    visitor, service = rig.pair()
    refused, before = rig.metric("natrp_hello_refused_total"), counted()
    hellos = list(forged_hellos())
    for hello in hellos:
        assert_closed(say(rig.edge, hello), 10, f"a forged ticket {hello[:8]!r}")
        check_echo(visitor, service, 100)
    wait_until(lambda: counted() - before >= len(hellos), 10, "every forged ticket was counted")
    assert rig.metric("natrp_hello_refused_total") > refused
    rig.check_echo()


def ticket_hellos(wire):
    """The hellos of every data channel that the agent has dialled, as the network saw them."""
    return [link.up.head[:HELLO_BYTES] for link in wire.links
            if link.up.head[:4] == b"NTRP" and len(link.up.head) >= HELLO_BYTES]


def test_a_ticket_is_good_for_one_channel_only(yard):
    rig = yard.rig(wire=True)
    rig.check_echo()

    def taken():
        # Counted before they are looked at: the edge has seen none that the network has not.
        opened = rig.metric("natrp_channels_opened_total")
        hellos = ticket_hellos(rig.wire)
        return hellos if len(hellos) == opened else None

    hellos = wait_until(taken, 10, "the agent dialled data channels, and the edge took each")
    assert len(set(hellos)) == len(hellos), "a ticket was used twice by the agent itself"
    refused = rig.metric("natrp_hello_refused_total")
    for hello in hellos:
        assert_closed(say(rig.edge, hello), 10, "a replayed ticket")
    wait_until(lambda: rig.metric("natrp_hello_refused_total") - refused >= len(hellos), 10,
               "every replayed ticket was counted")

    # Nor does a changed bit pass, nor the ticket of a session that is over.
    for place in (5, 12, 20, 40, HELLO_BYTES - 1):
        changed = bytearray(hellos[0])
        changed[place] ^= 1
        assert_closed(say(rig.edge, bytes(changed)), 10, f"a ticket with another byte {place}")
    rig.agent.process.kill()
    assert_closed(say(rig.edge, hellos[-1]), 10, "the ticket of a session that is over")
    rig.agent.start()
    rig.check_echo()


@pytest.mark.over([Setup(LOOPS[0], "auto")])
def test_what_comes_behind_a_forged_hello_is_dropped_with_it(yard):
    rig = yard.rig()
    for hello in forged_hellos():
        assert_closed(say(rig.edge, hello + os.urandom(500_000)), 10, "a forged ticket with a tail")
    rig.check_echo()
