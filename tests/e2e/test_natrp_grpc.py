"""The original natrp client's protocol, spoken by two gRPC implementations that are not ours.

Each case runs over {grpcio, grpc-js} x {double, uring, epoll}: "double" is tests/unit/compat/grpc_edge_double, the
connection without the rest of the edge; the others are the whole edge, on each loop.
"""

import hashlib
import os
import select
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from net import patient, split_host_port, wait_until
from processes import BUILD, Process
from rig import Setup, Yard, scaled
from sockets import CHUNK, Content, Service, Task, check_echo, check_received, connect
from without_io_uring import io_uring_error

CLIENTS = Path(__file__).with_name("grpc")
ONE_GIB = 1024 * 1024 * 1024
CLIENT = "original"
# The edge keeps a visitor this long that comes before a stream does.
RENDEZVOUS_SECONDS = 10


# --- the edges ---------------------------------------------------------------------------------------

class EdgeDouble:
    """grpc_edge_double: one token, one public port."""

    bulk_share = 16  # its bulk is a sixteenth: the whole edge carries the whole GiB

    def __init__(self, directory):
        named = os.environ.get("NATRP_GRPC_DOUBLE")
        found = [Path(named)] if named else sorted(BUILD.rglob("grpc_edge_double"))
        found = [path for path in found if path.is_file()]
        if not found:
            pytest.skip(f"{BUILD} has no grpc_edge_double: the build makes it with the unit tests")
        self.token = "plain-token-of-the-double"
        self.process = Process("grpc_edge_double", [found[0], self.token], directory)
        ready = self.process.wait_for(r"edge ready bind=(\S+) public=(\S+)")
        self.server = ready[1]
        self.public = split_host_port(ready[2])

    def close(self):
        self.process.stop()


class WholeEdge:
    """natrp-engine with one client whose one port is known beforehand."""

    bulk_share = 1

    def __init__(self, directory, io):
        self.yard = Yard(directory, Setup(io, "auto"))
        try:
            self.edge = self.yard.edge(start=False, natrp_grpc="on")
            self.port = int(str(self.edge.options["ports"]).split("-")[0])
            # A running edge has heard of a new client a moment later.
            self.token = self.edge.add_plain_client(CLIENT, "--ports", str(self.port))
            self.edge.start()
        except BaseException:
            self.yard.close()
            raise
        self.server = self.edge.server

    @property
    def process(self):
        return self.edge.process

    @property
    def public(self):
        return (self.edge.options["public_address"], self.port)

    def close(self):
        self.yard.close()


@pytest.fixture(params=["double", "uring", "epoll"])
def edge(request, tmp_path, judgement):
    if request.param == "uring" and io_uring_error():
        pytest.skip(f"this kernel refuses io_uring ({os.strerror(io_uring_error())})")
    made = EdgeDouble(tmp_path) if request.param == "double" else WholeEdge(tmp_path, request.param)
    yield made
    made.close()


# --- the clients -------------------------------------------------------------------------------------

@pytest.fixture(scope="session")
def grpc_js():
    """The npm packages of tests/e2e/grpc, installed once."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not here: scripts/deps.sh test installs them")
    if not (CLIENTS / "node_modules" / "@grpc" / "grpc-js").is_dir():
        done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=CLIENTS,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        if done.returncode:
            pytest.skip(f"npm ci in {CLIENTS.name}/ ended with {done.returncode}: {done.stderr.strip()[-300:]}")


class GrpcClient:
    """One way to speak gRPC: its command line."""

    def __init__(self, name, argv, directory):
        self.name = name
        self.argv = argv
        self.directory = directory
        self.processes = []

    def tunnel(self, edge, service, streams=1, token=None):
        process = Process(f"{self.name}-client", [*self.argv, "tunnel", "--server", edge.server, "--token",
                                                  token or edge.token, "--local", service.local, "--streams",
                                                  str(streams)], self.directory)
        self.processes.append(process)
        return process

    def call(self, edge, method, *tokens, options=()):
        """The line that the client prints about one call."""
        words = [word for token in tokens for word in ("--token", token)] + [*options]
        done = subprocess.run([*self.argv, "call", method, "--server", edge.server, *words], capture_output=True,
                              stdin=subprocess.DEVNULL, text=True, timeout=patient(40))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def close(self):
        for process in self.processes:
            process.kill()


@pytest.fixture(params=["grpcio", "grpc-js"])
def client(request, tmp_path, judgement):
    if request.param == "grpcio":
        pytest.importorskip("grpc", reason="python3-grpcio is not here: scripts/deps.sh test installs it")
        argv = ["/usr/bin/python3", str(CLIENTS / "natrp_client.py")]
    else:
        request.getfixturevalue("grpc_js")
        argv = ["node", str(CLIENTS / "natrp_client.js")]
    made = GrpcClient(request.param, argv, tmp_path)
    yield made
    made.close()


@pytest.fixture
def service():
    made = Service()
    yield made
    made.close()


@pytest.fixture
def tunnel(client, edge, service):
    """A running tunnel of one stream. The original dials its service before any visitor: that connection is here."""
    made = Tunnel(client, edge, service)
    yield made
    made.close()


class Tunnel:
    def __init__(self, client, edge, service):
        self.client = client
        self.edge = edge
        self.service = service
        self.process = None
        self._peers = []

    def open(self, streams=1):
        """The client with so many streams; the connections to the service that it dialled."""
        self.process = self.client.tunnel(self.edge, self.service, streams)
        return [self.keep(self.service.accept(30)) for _ in range(streams)]

    def keep(self, peer):
        self._peers.append(peer)
        return peer

    def visit(self, **options):
        """A visitor, once the public port is open."""
        return self.keep(visit(self.edge, **options))

    def pair(self):
        """One visitor and the connection of the service that serves it."""
        (service,) = self.open()
        return self.visit(), service

    def met(self, visitor):
        """The connection of the service that serves the visitor. A client whose edge is away, or does not know it yet,
        dials the service with each attempt, and hangs up."""
        visitor.send(b"?")
        peers = [peer for peer in self._peers if peer is not visitor and peer.sock.fileno() >= 0]
        service = first_that_got_bytes(peers, self.service, self)
        assert service.receive(1) == b"?"
        return service

    def wait_ended(self, code, count=1):
        """Until the client has seen so many calls end with this code."""
        lines = []

        def seen():
            lines[:] = [line for line in self.process.out.splitlines() if line.startswith("ended ")]
            return len(lines) >= count

        wait_until(seen, 15, lambda: f"{count} ends of calls\n{self.process.describe()}")
        assert all(line.split()[1] == code for line in lines[:count]), lines

    def close(self):
        for peer in self._peers:
            peer.close()


def visit(edge, seconds=15, **options):
    deadline = time.monotonic() + patient(seconds)
    while True:
        try:
            return connect(edge.public, **options)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, f"nobody listens on {edge.public}\n{edge.process.describe()}"
            time.sleep(0.05)


def first_that_got_bytes(peers, service, tunnel):
    deadline = time.monotonic() + patient(10)
    while time.monotonic() < deadline:
        while service.waiting:
            peers.append(tunnel.keep(service.accept()))
        for peer in peers:
            peer.sock.setblocking(False)
            try:
                if peer.sock.recv(1, socket.MSG_PEEK):
                    return peer
            except (BlockingIOError, ConnectionResetError):
                pass
            finally:
                peer.sock.settimeout(patient(30))
        time.sleep(0.01)
    raise AssertionError("no service got the visitor's byte")


# --- bytes -------------------------------------------------------------------------------------------

def test_one_byte_each_way(tunnel):
    visitor, service = tunnel.pair()
    visitor.send(b"?")
    assert service.receive(1) == b"?"
    service.send(b"!")
    assert visitor.receive(1) == b"!"


def test_a_service_that_speaks_first_is_heard_by_the_visitor_that_comes_later(tunnel):
    (service,) = tunnel.open()
    service.send(b"220 hello\r\n")
    visitor = tunnel.visit()
    assert visitor.receive(11) == b"220 hello\r\n"
    check_echo(visitor, service)


@pytest.mark.parametrize("direction", ["to the service", "to the visitor"])
def test_a_gibibyte_arrives_as_it_was_sent(tunnel, direction):
    visitor, service = tunnel.pair()
    content = Content(scaled(ONE_GIB) // tunnel.edge.bulk_share)
    sender, receiver = (visitor, service) if direction == "to the service" else (service, visitor)
    sending = Task(sender.send_content, content, CHUNK, True)
    # The end of one side ends the other at once, so FIN is what the receiver sees after the last byte.
    received = Task(receiver.receive_to_end).result()
    sending.result()
    check_received(received, content, who="the receiver")


def test_a_message_of_four_mebibytes_is_taken_and_a_longer_one_is_not(client, edge):
    whole = 4 * 1024 * 1024 - 5  # its tag and its length are of the message, too
    said = Task(client.call, edge, "Msg", edge.token, options=("--bytes", str(whole)))
    visitor = visit(edge)
    assert visitor.receive(whole) == bytes(whole)
    visitor.close()
    assert said.result().strip() == "status OK"
    assert client.call(edge, "Msg", edge.token, options=("--bytes", str(whole + 1))).startswith(
        "status RESOURCE_EXHAUSTED ")


def test_two_hundred_streams_serve_two_hundred_visitors_at_once(tunnel):
    services = tunnel.open(200)
    visitors = [tunnel.visit() for _ in range(200)]
    for number, visitor in enumerate(visitors):
        visitor.send(b"%04d" % number)
    reached = {int(service.receive(4)): service for service in services}
    assert sorted(reached) == list(range(200))
    for number, visitor in enumerate(visitors):
        content = hashlib.sha256(b"%d" % number).digest() * 1000
        reached[number].send(content)
        assert visitor.receive(len(content)) == content


@pytest.mark.parametrize("slow_side", ["visitor", "service"])
def test_a_slow_reader_stops_its_own_stream_only(tunnel, slow_side):
    services = tunnel.open(2)
    slow, quick = tunnel.visit(receive_buffer=65536), tunnel.visit()
    for number, visitor in enumerate((slow, quick)):
        visitor.send(b"%d" % number)
    by_number = {int(service.receive(1)): service for service in services}
    content = Content(64 * 1024 * 1024 // tunnel.edge.bulk_share, seed=2)
    sender, receiver = (by_number[0], slow) if slow_side == "visitor" else (slow, by_number[0])
    sending = Task(sender.send_content, content, CHUNK, True)
    for seed in range(5):  # while the slow one takes nothing
        check_echo(quick, by_number[1], 200_000, seed)
    check_received(receiver.receive_to_end(), content, who="the slow reader")
    sending.result()


# --- ends --------------------------------------------------------------------------------------------

def test_a_stream_whose_visitor_left_ends_with_ok_and_the_next_visitor_gets_the_next(tunnel):
    visitor, service = tunnel.pair()
    for count in (1, 2, 3):
        visitor.send(b"the last words")
        visitor.close()
        left = time.monotonic()
        received = service.receive_to_end(10)
        assert received.size == 14, "bytes before the end are delivered"
        assert time.monotonic() - left < patient(2)
        tunnel.wait_ended("OK", count)
        service = tunnel.keep(tunnel.service.accept())
        visitor = tunnel.visit()
        check_echo(visitor, service)


def test_a_service_that_leaves_ends_the_visitor_after_its_bytes(tunnel):
    visitor, service = tunnel.pair()
    check_echo(visitor, service)
    content = Content(1_000_000, seed=4)
    service.send_content(content, finish=True)
    check_received(visitor.receive_to_end(30), content, who="the visitor")
    tunnel.wait_ended("OK")


def test_a_stream_whose_service_left_before_a_visitor_came_is_not_used(tunnel):
    (service,) = tunnel.open()
    service.close()
    service = tunnel.keep(tunnel.service.accept())  # the stream that the client opens next
    visitor = tunnel.visit()
    check_echo(visitor, service)


def test_a_cancelled_stream_ends_its_visitor_and_no_other(tunnel):
    services = tunnel.open(2)
    visitors = [tunnel.visit() for _ in range(2)]
    for number, visitor in enumerate(visitors):
        visitor.send(b"%d" % number)
    by_number = {int(service.receive(1)): service for service in services}
    by_number[0].send(b"cancel!")
    visitors[0].wait_ended(5)
    tunnel.wait_ended("CANCELLED")
    check_echo(visitors[1], by_number[1])


def test_a_client_that_is_killed_ends_its_visitors(tunnel):
    visitor, service = tunnel.pair()
    check_echo(visitor, service)
    tunnel.process.kill()
    visitor.wait_ended(5)


def test_a_visitor_waits_for_a_stream(tunnel):
    visitor, service = tunnel.pair()  # takes the only stream
    check_echo(visitor, service)
    waiting = tunnel.visit()
    waiting.send(b"me too")
    waiting.assert_open(0.5)
    visitor.close()
    service = tunnel.keep(tunnel.service.accept())
    assert service.receive(6, RENDEZVOUS_SECONDS) == b"me too"


def test_a_draining_edge_lets_a_visitor_finish(tunnel):
    services = tunnel.open(2)
    visitor = tunnel.visit()
    visitor.send(b"x")
    serving = next(service for service in services if readable(service))
    assert serving.receive(1) == b"x"
    tunnel.edge.process.terminate()
    idle = next(service for service in services if service is not serving)
    assert idle.receive_to_end(10).size == 0, "the stream without a visitor is ended"
    check_echo(visitor, serving)
    content = Content(1_000_000, seed=5)
    sending = Task(visitor.send_content, content, CHUNK, True)
    check_received(serving.receive_to_end(10), content, who="the service")
    sending.result()
    assert tunnel.edge.process.wait_exit(10) == 0


def readable(peer):
    return bool(select.select([peer.sock], [], [], 2)[0])


# --- refusals ----------------------------------------------------------------------------------------

def test_metadata_without_exactly_one_token_is_bad(client, edge):
    assert client.call(edge, "Msg") == "status INVALID_ARGUMENT bad metadata"
    assert client.call(edge, "Msg", edge.token, edge.token) == "status INVALID_ARGUMENT bad metadata"


def test_an_unknown_token_is_unauthenticated(client, edge):
    said = client.call(edge, "Msg", "balalaxiaomoxian")
    assert said.startswith("status UNAUTHENTICATED ") and len(said.split()) > 6, said


def test_register_and_login_fail_with_a_sentence(client, edge):
    for method in ("Register", "Login"):
        said = client.call(edge, method)
        assert said.startswith(("answer 1 ", "answer CodeFailed ")) and "natrpctl client add" in said, said


def test_a_compressed_message_is_unimplemented(client, edge):
    said = client.call(edge, "Msg", edge.token, options=("--bytes", "100000", "--compress"))
    assert said.startswith("status UNIMPLEMENTED ") and "compressed" in said, said


def test_an_unknown_method_is_unimplemented(client, edge):
    assert client.call(edge, "Nonsense").startswith("status UNIMPLEMENTED ")


def test_a_refused_client_does_no_harm_to_another(tunnel):
    visitor, service = tunnel.pair()
    stranger = tunnel.client.tunnel(tunnel.edge, tunnel.service, streams=5, token="no such token")
    stranger.wait_for("ended UNAUTHENTICATED", stream="out")
    check_echo(visitor, service)


# --- what only the whole edge does -------------------------------------------------------------------

# The double has one token and keeps no leases.
whole = pytest.mark.parametrize("edge", ["uring", "epoll"], indirect=True)


@whole
def test_the_join_token_works_too(tunnel):
    tunnel.edge.port += 1
    token = tunnel.edge.edge.add_client("by-join-token", "--ports", str(tunnel.edge.port))
    tunnel.client.tunnel(tunnel.edge, tunnel.service, token=token)
    visitor = tunnel.visit(seconds=30)
    check_echo(visitor, tunnel.met(visitor))


@whole
def test_the_port_is_the_same_after_the_edge_was_killed(tunnel):
    visitor, service = tunnel.pair()
    check_echo(visitor, service)
    edge = tunnel.edge.edge
    edge.process.kill()
    visitor.wait_ended(5)
    edge.start()
    visitor = tunnel.visit(seconds=60)  # gRPC's own back-off
    check_echo(visitor, tunnel.met(visitor))


@whole
def test_the_port_stays_open_between_two_streams(tunnel):
    visitor, service = tunnel.pair()
    check_echo(visitor, service)
    visitor.close()
    # At once, while the client has not opened its next stream yet: never refused.
    early = tunnel.keep(connect(tunnel.edge.public))
    service = tunnel.keep(tunnel.service.accept())
    check_echo(early, service)


@whole
def test_two_clients_share_the_edge_and_not_the_port(tunnel):
    edge, client = tunnel.edge, tunnel.client
    other = Tunnel(client, edge, Service())
    try:
        ports = edge.port, edge.port + 1
        token = edge.edge.add_plain_client("another", "--ports", str(ports[1]))
        client.tunnel(edge, tunnel.service)
        client.tunnel(edge, other.service, token=token)
        for port, here in zip(ports, (tunnel, other)):
            edge.port = port
            visitor = here.visit(seconds=30)
            check_echo(visitor, here.met(visitor))
    finally:
        other.close()
        other.service.close()
