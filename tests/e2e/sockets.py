"""Visitors and services: raw sockets that a test drives by hand, and the checks on what they saw.

A Peer is one end of one connection. A Service is a listener that hands out what it accepts as Peers.
Every wait is bounded; what did not happen in time is an AssertionError with a sentence.
"""

import ctypes
import fcntl
import functools
import hashlib
import os
import queue
import random
import select
import selectors
import socket
import struct
import termios
import threading
import time
from typing import NamedTuple

from net import family_of, host_port, patient, wait_until

FIN = "FIN"
RESET = "RST"

# No transfer of the suite needs as long; the bound exists so that a hang becomes a failure.
TRANSFER_SECONDS = 90
CHUNK = 256 * 1024
READ = 1024 * 1024


# --- content -------------------------------------------------------------------------------------

@functools.lru_cache(maxsize=1)
def _ring():
    # An odd period, far longer than all that a tunnel can hold in flight: bytes lost, doubled or
    # swapped by any power of two cannot look right again.
    return memoryview(random.Random(20190101).randbytes(16 * 1024 * 1024 + 43))


class Content:
    """`size` bytes that are the same in every run; another `seed` is another place of the ring."""

    def __init__(self, size, seed=1):
        self.size = int(size)
        self._start = seed * 1_000_003 % len(_ring())

    def slice(self, offset, size):
        ring = _ring()
        parts = []
        while size > 0:
            place = (self._start + offset) % len(ring)
            step = min(size, len(ring) - place)
            parts.append(ring[place:place + step])
            offset += step
            size -= step
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def after(self, offset):
        """The same content without its first `offset` bytes."""
        rest = Content(self.size - offset)
        rest._start = (self._start + offset) % len(_ring())
        return rest

    def chunks(self, step=CHUNK):
        ring = _ring()
        offset = 0
        while offset < self.size:
            place = (self._start + offset) % len(ring)
            size = min(step, self.size - offset, len(ring) - place)
            yield ring[place:place + size]
            offset += size

    def __bytes__(self):
        return self.slice(0, self.size)

    @property
    def sha256(self):
        return _sha256_of(self.size, self._start)


@functools.lru_cache(maxsize=256)
def _sha256_of(size, start):
    content = Content(size)
    content._start = start
    digest = hashlib.sha256()
    for chunk in content.chunks(4 * READ):
        digest.update(chunk)
    return digest.hexdigest()


class Received(NamedTuple):
    size: int
    sha256: str
    ending: str


def check_received(received, content, ending=FIN, who="the receiver"):
    """The one judgement on a finished direction: length, then bytes, then how it ended."""
    assert received.size == content.size, (
        f"{who} got {received.size} of {content.size} bytes "
        f"({content.size - received.size:+d} missing), then {received.ending}")
    assert received.sha256 == content.sha256, f"{who} got {received.size} bytes, but not the ones that were sent"
    assert received.ending == ending, f"{who} saw {received.ending} after the last byte, expected {ending}"


# --- threads -------------------------------------------------------------------------------------

class Task:
    """A function in a thread of its own; result() returns what it returned or raises what it raised."""

    def __init__(self, function, *args, **kwargs):
        self._outcome = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(function, args, kwargs), daemon=True)
        self._thread.start()

    def _run(self, function, args, kwargs):
        try:
            self._outcome.put((function(*args, **kwargs), None))
        except BaseException as error:  # handed to whoever asks for the result
            self._outcome.put((None, error))

    @property
    def done(self):
        return not self._outcome.empty()

    def result(self, seconds=TRANSFER_SECONDS):
        try:
            value, error = self._outcome.get(timeout=patient(seconds))
        except queue.Empty:
            raise AssertionError(f"a transfer was still running after {patient(seconds):g} s") from None
        if error is not None:
            raise error
        return value


# --- one end of a connection -----------------------------------------------------------------------

class Peer:
    """One end of one connection, driven by the test. `who` is its name in messages."""

    def __init__(self, sock, who):
        self.sock = sock
        self.who = who
        self.sock.settimeout(patient(TRANSFER_SECONDS))
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data):
        try:
            self.sock.sendall(data)
        except socket.timeout:
            raise AssertionError(f"{self.who} could not send for {patient(TRANSFER_SECONDS):g} s") from None

    def send_content(self, content, step=CHUNK, finish=False):
        for chunk in content.chunks(step):
            self.send(chunk)
        if finish:
            self.finish()

    def finish(self):
        """FIN: no more bytes from this end; it can still receive."""
        self.sock.shutdown(socket.SHUT_WR)

    def wait_sent(self, seconds=15):
        """Until the kernel at the other end of this socket has acknowledged every byte."""
        if self.sock.family == socket.AF_UNIX:
            return
        wait_until(lambda: unsent(self.sock) == 0, seconds, f"{self.who}'s bytes were acknowledged")

    def reset(self):
        """RST instead of FIN. Call wait_sent() first when the bytes before it have to arrive."""
        reset(self.sock)

    def reset_under_way(self):
        """RST while another thread may be sending: close() would leave the socket to that thread's call."""
        # AF_UNSPEC disconnects, and with unsent bytes the kernel says so by a RST.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        libc = ctypes.CDLL(None, use_errno=True)
        unspecified = struct.pack("H14x", socket.AF_UNSPEC)
        if libc.connect(self.sock.fileno(), unspecified, len(unspecified)) != 0:
            raise OSError(ctypes.get_errno(), "connect(AF_UNSPEC)")

    def receive(self, size, seconds=30):
        """Exactly `size` bytes."""
        deadline = time.monotonic() + patient(seconds)
        parts = []
        missing = size
        while missing:
            try:
                self.sock.settimeout(max(0.001, deadline - time.monotonic()))
                part = self.sock.recv(min(missing, READ))
            except socket.timeout:
                raise AssertionError(
                    f"{self.who} got {size - missing} of {size} bytes within {patient(seconds):g} s") from None
            except (ConnectionResetError, BrokenPipeError):
                raise AssertionError(f"{self.who} saw RST after {size - missing} of {size} bytes") from None
            finally:
                self.sock.settimeout(patient(TRANSFER_SECONDS))
            if not part:
                raise AssertionError(f"{self.who} saw FIN after {size - missing} of {size} bytes")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def receive_to_end(self, seconds=TRANSFER_SECONDS):
        """Everything until FIN or RST."""
        deadline = time.monotonic() + patient(seconds)
        digest = hashlib.sha256()
        buffer = bytearray(READ)
        view = memoryview(buffer)
        total = 0
        try:
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise socket.timeout
                self.sock.settimeout(left)
                count = self.sock.recv_into(buffer)
                if not count:
                    return Received(total, digest.hexdigest(), FIN)
                digest.update(view[:count])
                total += count
        except socket.timeout:
            raise AssertionError(
                f"{self.who} saw no end within {patient(seconds):g} s; {total} bytes came") from None
        except (ConnectionResetError, BrokenPipeError):
            return Received(total, digest.hexdigest(), RESET)
        finally:
            self.sock.settimeout(patient(TRANSFER_SECONDS))

    def wait_ended(self, seconds):
        """FIN or RST, whatever it is; bytes before it are dropped."""
        return self.receive_to_end(seconds).ending

    def wait_reset(self, seconds):
        """Until this socket is told of a RST, also when FIN has come before it (recv() is then silent about
        it: only poll() and SO_ERROR tell). Returns the seconds it took."""
        start = time.monotonic()
        poll = select.poll()
        poll.register(self.sock, 0)  # POLLERR needs no asking
        events = poll.poll(patient(seconds) * 1000)
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        assert events and events[0][1] & select.POLLERR and error, (
            f"{self.who} was told of no RST within {patient(seconds):g} s (poll says {events}, SO_ERROR {error})")
        return time.monotonic() - start

    def assert_open(self, seconds=0.2):
        """Neither bytes nor an end come for a while."""
        readable, _, _ = select.select([self.sock], [], [], seconds)
        if not readable:
            return
        try:
            seen = self.sock.recv(64)
        except OSError as error:
            seen = error
        raise AssertionError(f"{self.who} should have stayed silent and open, but saw {seen!r}")

    def close(self):
        self.sock.close()


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def unsent(sock):
    """Bytes (and FIN) that the peer's kernel has not acknowledged."""
    return struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))[0]


def connect(address, who="the visitor", seconds=15, receive_buffer=None):
    """A Peer that has connected to (host, port)."""
    sock = socket.socket(family_of(address[0]), socket.SOCK_STREAM)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(patient(seconds))
    try:
        sock.connect(address)
    except OSError as error:
        sock.close()
        if isinstance(error, socket.timeout):
            raise AssertionError(f"{who} could not connect to {host_port(*address)} in time") from None
        raise
    return Peer(sock, who)


# --- services --------------------------------------------------------------------------------------

class Service:
    """A listener on loopback or on a unix path; accept() gives the test each connection as a Peer."""

    def __init__(self, host="127.0.0.1", port=0, path=None):
        self.path = path
        if path:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(str(path))
        else:
            self._listener = socket.socket(family_of(host), socket.SOCK_STREAM)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((host, port))
        self._listener.listen(4096)
        self.address = self._listener.getsockname()[:2] if not path else None
        self._accepted = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def local(self):
        """What the agent's --local wants."""
        return f"unix:{self.path}" if self.path else host_port(*self.address)

    def _run(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._accepted.put(Peer(sock, "the service"))

    def accept(self, seconds=15):
        try:
            return self._accepted.get(timeout=patient(seconds))
        except queue.Empty:
            raise AssertionError(f"no connection reached the service within {patient(seconds):g} s") from None

    @property
    def waiting(self):
        """True when accept() would not have to wait."""
        return not self._accepted.empty()

    def accepted_none(self, seconds=0.3):
        """True when nothing reaches the service for a while."""
        try:
            self._accepted.get(timeout=seconds).close()
            return False
        except queue.Empty:
            return True

    def forget(self):
        """Closes what was accepted and never asked for."""
        while not self._accepted.empty():
            self._accepted.get().close()

    def close(self):
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # close() alone does not wake accept()
        except OSError:
            pass
        self._listener.close()
        self._thread.join(5)
        self.forget()
        if self.path and os.path.exists(self.path):
            os.unlink(self.path)


class EchoService:
    """Thousands of connections in one thread: echoes, answers FIN with FIN, and closes a connection first
    when it receives GOODBYE at the end of a read."""

    GOODBYE = b"goodbye!"

    def __init__(self, host="127.0.0.1"):
        self._listener = socket.socket(family_of(host), socket.SOCK_STREAM)
        self._listener.bind((host, 0))
        self._listener.listen(4096)
        self._listener.setblocking(False)
        self.address = self._listener.getsockname()[:2]
        self.local = host_port(*self.address)
        self.live = 0
        self._stop = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stop:
            for key, _ in self._selector.select(0.1):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._serve(key.fileobj)

    def _accept(self):
        try:
            while True:
                sock, _ = self._listener.accept()
                self._selector.register(sock, selectors.EVENT_READ)
                self.live += 1
        except (BlockingIOError, OSError):
            pass

    def _serve(self, sock):
        try:
            data = sock.recv(CHUNK)
            if data:
                sock.settimeout(patient(30))
                sock.sendall(data)
                if not data.endswith(self.GOODBYE):
                    return
        except OSError:
            pass
        self._selector.unregister(sock)
        sock.close()
        self.live -= 1

    def close(self):
        self._stop = True
        self._thread.join(5)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()


# --- what two ends say to each other ----------------------------------------------------------------

def exchange(visitor, service, up, down, step=CHUNK):
    """Both directions at once, each ended by FIN, each checked on the other end."""
    tasks = [Task(visitor.send_content, up, step, True), Task(service.send_content, down, step, True)]
    at_service = Task(service.receive_to_end)
    at_visitor = Task(visitor.receive_to_end)
    check_received(at_service.result(), up, who="the service")
    check_received(at_visitor.result(), down, who="the visitor")
    for task in tasks:
        task.result()


def check_echo(visitor, service, size=1000, seed=3):
    """A request and its answer, both checked; the connection stays open."""
    content = bytes(Content(size, seed))
    visitor.send(content)
    assert service.receive(size) == content, "the service got other bytes than the visitor sent"
    service.send(content[::-1])
    assert visitor.receive(size) == content[::-1], "the visitor got other bytes than the service sent"


def is_refused(address, seconds=5):
    """True when a new visitor gets nowhere: refused, reset or closed without a byte. False when it stays open."""
    try:
        visitor = connect(address, seconds=seconds)
    except OSError:
        return True
    try:
        readable, _, _ = select.select([visitor.sock], [], [], seconds)
        if not readable:
            return False
        return visitor.sock.recv(1) == b""
    except OSError:
        return True
    finally:
        visitor.close()
