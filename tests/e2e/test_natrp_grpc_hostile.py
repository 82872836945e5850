"""Whoever speaks HTTP/2 to the public control port: floods end their own connection, and no other; with the original
natrp's protocol off, nobody is answered."""

import re
import socket
import struct

import pytest

from conftest import CONTROL
from net import patient, wait_until
from sockets import check_echo
from test_natrp_grpc import client, edge, grpc_js, service, tunnel  # noqa: F401  (fixtures)

whole = pytest.mark.parametrize("edge", ["uring", "epoll"], indirect=True)
grpcio = pytest.mark.parametrize("client", ["grpcio"], indirect=True)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_HEADERS = 4
ENHANCE_YOUR_CALM = 11
FRAMES_MAX = 100_000


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def literal(text):
    """A string of HPACK, not squeezed (RFC 7541 §5.2)."""
    size, out = len(text), b""
    if size < 127:
        return bytes((size,)) + text
    size -= 127
    while size > 127:
        out += bytes((size & 127 | 128,))
        size >>= 7
    return b"\x7f" + out + bytes((size,)) + text


def block(*fields):
    return b"".join(b"\0" + literal(name) + literal(value) for name, value in fields)


def call(token, *fields):
    return block((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/serverpb.ServerService/Msg"),
                 (b":authority", b"edge"), (b"content-type", b"application/grpc"), (b"natrp-token", token.encode()),
                 *fields)


class Stranger:
    """An HTTP/2 connection that says whatever it likes."""

    def __init__(self, edge):
        host, port = edge.server.rsplit(":", 1)
        self.sock = socket.create_connection((host, int(port)), timeout=patient(20))
        self.received = b""
        self.sock.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, 1, 0))

    def flood(self, frames):
        """Sends until the edge has closed; fails when it takes all of them."""
        self.sock.settimeout(patient(20))
        try:
            for sent, one in enumerate(frames):
                self.sock.sendall(one)
                if sent % 20 == 0 and self._take():
                    return
            self.sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        while not self._take(wait=True):
            pass

    def _take(self, wait=False):
        """True: nothing more comes."""
        self.sock.settimeout(patient(20) if wait else 0)
        try:
            got = self.sock.recv(1 << 18)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        finally:
            self.sock.settimeout(patient(20))
        self.received += got
        return not got

    def frames(self):
        """What the edge said: (kind, payload)."""
        at, out = 0, []
        while at + 9 <= len(self.received):
            size = int.from_bytes(self.received[at:at + 3], "big")
            out.append((self.received[at + 3], self.received[at + 9:at + 9 + size]))
            at += 9 + size
        return out

    def close(self):
        self.sock.close()


def new_streams():
    return range(3, 2 * FRAMES_MAX, 2)


# More answers than this peer has read: which of two bounds is met first is a matter of how much is read at once.
UNREAD = "the answers were not read"
FLOODS = {
    "rapid reset": ("came to nothing", lambda token: (
        frame(HEADERS, END_HEADERS, stream, call(token)) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
        for stream in new_streams())),
    "continuation": ("CONTINUATION", lambda token: (
        frame(CONTINUATION, 0, 3) if number else frame(HEADERS, 0, 3, call(token)) for number in range(FRAMES_MAX))),
    "settings": (f"SETTINGS|{UNREAD}", lambda token: (frame(SETTINGS, 0, 0) for _ in range(FRAMES_MAX))),
    "ping": (f"PING|{UNREAD}", lambda token: (frame(PING, 0, 0, b"12345678") for _ in range(FRAMES_MAX))),
    "window update": ("WINDOW_UPDATE", lambda token: (
        frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)) for _ in range(FRAMES_MAX))),
    "empty data": ("without data", lambda token: (frame(DATA, 0, 1) for _ in range(FRAMES_MAX))),
    # One field that goes into the table of HPACK, then one byte for each time that it is meant again.
    "header bomb": ("header list", lambda token: (
        frame(HEADERS, END_HEADERS, 3, call(token) + b"\x40" + literal(b"a") + literal(b"b" * 3900) + b"\xbe" * 12000)
        for _ in range(1))),
}


@whole
@grpcio
@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_ends_its_own_connection_and_no_other(tunnel, kind):
    about, frames = FLOODS[kind]
    visitor, service = tunnel.pair()
    # The stranger has the client's token: until the visitor has met the client's call, it could get the stranger's.
    check_echo(visitor, service)
    stranger = Stranger(tunnel.edge)
    try:
        # A call with the client's own token: what is refused is the flood, not the stranger.
        stranger.sock.sendall(frame(HEADERS, END_HEADERS, 1, call(tunnel.edge.token)))
        stranger.flood(frames(tunnel.edge.token))
        farewells = [payload for kind, payload in stranger.frames() if kind == GOAWAY]
        assert farewells, f"closed without a word after {len(stranger.received)} bytes"
        assert int.from_bytes(farewells[-1][4:8], "big") == ENHANCE_YOUR_CALM, farewells
        assert re.search(about, farewells[-1][8:].decode()), farewells
    finally:
        stranger.close()
    check_echo(visitor, service)
    visitor.close()
    check_echo(tunnel.visit(), tunnel.keep(tunnel.service.accept()))


# --- on, off, and what the log says ----------------------------------------------------------------------------------

WARNING = "in the clear"


@pytest.mark.over(CONTROL)
@pytest.mark.parametrize("client", ["grpcio", "grpc-js"], indirect=True)
def test_an_edge_that_was_not_told_to_answers_no_original_client(yard, client):
    edge = yard.edge()
    assert client.call(edge, "Login").startswith("status UNAVAILABLE ")
    assert edge.metric("natrp_garbage_refused_total") >= 1
    assert WARNING not in edge.process.err


@pytest.mark.over(CONTROL)
@grpcio
def test_the_key_of_the_file_turns_it_on_and_the_log_warns_once(yard, client):
    config = yard.path("engine.toml")
    config.write_text("[compat]\nnatrp_grpc = true\n")
    edge = yard.edge(config=config)
    for _ in range(3):
        assert client.call(edge, "Login").startswith("answer 1 ")
    assert edge.process.err.count(WARNING) == 1


@pytest.mark.over(CONTROL)
@grpcio
@pytest.mark.parametrize("host, said", [(None, ""), ("edge.example.org", r" public_address=edge\.example\.org:{}"),
                                        ("2001:db8::7", r" public_address=\[2001:db8::7\]:{}")],
                         ids=["unknown", "name", "IPv6"])
def test_the_log_shows_where_visitors_come(yard, client, service, host, said):
    edge = yard.edge(natrp_grpc="on", public_address=host)
    port = int(str(edge.options["ports"]).split("-")[0])
    client.tunnel(edge, service, token=edge.add_plain_client("original", "--ports", str(port)))
    edge.process.wait_for(rf"lease live client=original tunnel=natrp port={port}{said.format(port)}$")


@pytest.mark.over(CONTROL)
@grpcio
def test_the_log_shows_why_a_connection_ended(yard, client, service):
    edge = yard.edge(natrp_grpc="on", log_level="debug")
    token = edge.add_plain_client("original")
    process = client.tunnel(edge, service, token=token)
    port = edge.process.wait_for(r"lease live client=original tunnel=natrp port=(\d+)")[1]
    # A lease is written a little after it was given.
    wait_until(lambda: f"natrp={port}" in edge.ctl("client", "list")[1], 10, "the lease is in the store")
    assert edge.ctl("token", "rotate", "original")[0] == 0
    edge.process.wait_for(r'original client ended why="the edge\'s operator gave this client a new token"')
    process.wait_for("ended UNAUTHENTICATED", stream="out")
    assert "being stopped" not in edge.process.err
