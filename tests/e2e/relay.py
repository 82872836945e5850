"""A plain relay in Python. Between the agent and the edge it is the network that a test can cut, silence and listen
to; between a visitor and a service it is a whole tunnel for the harness's own tests, with or without a defect."""

import select
import socket
import threading
import time

from net import family_of, wait_until
from sockets import reset, unsent

HELD_MAX = 256 * 1024
HEAD = 256
TAIL = 4096


class Direction:
    """Bytes from one socket to the other; what a relay with a defect overrides."""

    def __init__(self, source, sink):
        self.source = source
        self.sink = sink
        self.held = bytearray()
        self.head = b""  # the first bytes that came through
        self.tail = b""  # the last ones
        self.total = 0
        self.eof = False
        self.finished = False

    def on_bytes(self, data):
        self.held += data

    def on_eof(self):
        """The source's FIN came; what is held still goes out, then FIN."""

    def on_finish(self):
        self.sink.shutdown(socket.SHUT_WR)


class Link:
    """One relayed connection: `near` was accepted, `far` was dialled."""

    def __init__(self, near, far, up_type, down_type, rst_as_fin):
        self.near = near
        self.far = far
        self.up = up_type(near, far)
        self.down = down_type(far, near)
        self.rst_as_fin = rst_as_fin
        self.silent = False
        self.ended = False
        self._is_silent = False
        self._wish = None
        for sock in (near, far):
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def silence(self):
        """From its return on no byte passes, until `silent` is False again."""
        self.silent = True
        wait_until(lambda: self._is_silent or self.ended, 10, "the relay is silent")

    def reset_near(self):
        self._ask("reset_near")

    def reset_far(self):
        self._ask("reset_far")

    def cut(self):
        """RST on both sides, at once."""
        self._ask("cut")

    def _ask(self, wish):
        self._wish = wish
        deadline = time.monotonic() + 10
        while self._wish == wish and not self.ended and time.monotonic() < deadline:
            time.sleep(0.005)

    def _run(self):
        try:
            self._relay()
        finally:
            self.ended = True
            self.near.close()
            self.far.close()

    def _relay(self):
        gone = set()  # sockets that a wish has reset
        while True:
            if self._wish == "cut":
                reset(self.near)
                reset(self.far)
                return
            if self._wish in ("reset_near", "reset_far"):
                # The other side stays open and unread: whoever sits there has to be told by a second wish.
                sock = self.near if self._wish == "reset_near" else self.far
                reset(sock)
                gone.add(sock)
                self._wish = None
            if len(gone) == 2:
                return
            if gone:
                time.sleep(0.01)
                continue
            if self.up.finished and self.down.finished:
                return
            self._is_silent = self.silent
            if self.silent:
                time.sleep(0.01)
                continue
            if not self._turn():
                return

    def _turn(self):
        """One poll and what follows. False: the link is over."""
        masks = {self.near.fileno(): 0, self.far.fileno(): 0}
        for direction in (self.up, self.down):
            if not direction.eof and len(direction.held) < HELD_MAX:
                masks[direction.source.fileno()] |= select.POLLIN
            if direction.held:
                masks[direction.sink.fileno()] |= select.POLLOUT
        over = {self.near.fileno(): self.up.eof and self.down.finished,
                self.far.fileno(): self.down.eof and self.up.finished}
        poll = select.poll()
        for fd, mask in masks.items():
            if not over[fd]:
                poll.register(fd, mask)
        events = dict(poll.poll(20))
        for direction, back in ((self.up, self.down), (self.down, self.up)):
            try:
                self._read(direction, events.get(direction.source.fileno(), 0))
            except (ConnectionResetError, BrokenPipeError):
                self._carry_reset(direction)
                return False
            try:
                self._write(direction)
            except (ConnectionResetError, BrokenPipeError):
                self._carry_reset(back)
                return False
        return True

    def _read(self, direction, events):
        if events & (select.POLLIN | select.POLLERR) and not direction.eof:
            data = direction.source.recv(65536)
            if data:
                direction.head = (direction.head + data)[:HEAD] if len(direction.head) < HEAD else direction.head
                direction.tail = (direction.tail + data)[-TAIL:]
                direction.total += len(data)
                direction.on_bytes(data)
            else:
                direction.eof = True
                direction.on_eof()
        elif events & select.POLLERR:
            raise ConnectionResetError

    def _write(self, direction):
        try:
            while direction.held:
                count = direction.sink.send(direction.held)
                del direction.held[:count]
        except BlockingIOError:
            return
        if direction.eof and not direction.finished:
            direction.finished = True
            try:
                direction.on_finish()
            except OSError:
                pass

    def _carry_reset(self, direction):
        """The source was reset: what it sent before goes out first, then RST."""
        try:
            direction.sink.settimeout(5)
            if direction.held and not direction.finished:
                direction.sink.sendall(direction.held)
            deadline = time.monotonic() + 5
            while unsent(direction.sink) and time.monotonic() < deadline:
                time.sleep(0.002)
            if self.rst_as_fin:
                direction.sink.close()
            else:
                reset(direction.sink)
        except OSError:
            pass


class Relay:
    """Listens on `host`, relays each connection to `target`."""

    def __init__(self, target, host="127.0.0.1", up_type=Direction, down_type=Direction, rst_as_fin=False):
        self.target = target
        self.links = []
        self.up_type = up_type
        self.down_type = down_type
        self.rst_as_fin = rst_as_fin
        self._listener = socket.socket(family_of(host), socket.SOCK_STREAM)
        self._listener.bind((host, 0))
        self._listener.listen(1024)
        self.address = self._listener.getsockname()[:2]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(family_of(self.target[0]), socket.SOCK_STREAM)
            try:
                far.settimeout(5)
                far.connect(self.target)
            except OSError:
                reset(near)
                far.close()
                continue
            self.links.append(Link(near, far, self.up_type, self.down_type, self.rst_as_fin))

    def live(self):
        return [link for link in self.links if not link.ended]

    def carrying(self, marker):
        """The link that carried `marker` last, in either direction."""
        return wait_until(
            lambda: next((link for link in self.links if marker in link.up.tail or marker in link.down.tail), None),
            10, "the marked bytes crossed the relay")

    def close(self):
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        self._thread.join(5)
        for link in self.live():
            link.silent = False
            link.cut()


# --- relays with a defect: the suite has to see each of them ------------------------------------------

class DropsLastByte(Direction):
    """Keeps the newest byte back, and loses it at FIN."""

    def __init__(self, source, sink):
        super().__init__(source, sink)
        self._kept = b""

    def on_bytes(self, data):
        data = self._kept + data
        self._kept = bytes(data[-1:])
        self.held += data[:-1]


class FlipsABit(Direction):
    """One bit of the 70,000th byte."""

    AT = 70_000

    def on_bytes(self, data):
        data = bytearray(data)
        place = self.AT - (self.total - len(data))
        if 0 <= place < len(data):
            data[place] ^= 1
        self.held += data


class SwapsBlocks(Direction):
    """Two neighbouring reads the other way round, once."""

    def __init__(self, source, sink):
        super().__init__(source, sink)
        self._kept = None
        self._done = False

    def on_bytes(self, data):
        if not self._done and self._kept is None and len(data) >= 4096:
            self._kept = data
            return
        self.held += data
        if self._kept is not None:
            self.held += self._kept
            self._kept, self._done = None, True

    def on_eof(self):
        if self._kept is not None:
            self.held += self._kept
            self._kept = None


class ClosesBothOnFin(Direction):
    """No half-close: one FIN ends both directions."""

    def on_finish(self):
        self.sink.shutdown(socket.SHUT_RDWR)
        self.source.shutdown(socket.SHUT_RDWR)
