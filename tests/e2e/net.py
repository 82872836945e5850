"""Addresses, ports and bounded waits: everything the suite asks of the machine it runs on."""

import os
import random
import socket
import time

# A slow machine or a sanitizer build multiplies every bound of the suite by this.
PATIENCE = float(os.environ.get("NATRP_E2E_PATIENCE", "1"))

_random = random.SystemRandom()


def patient(seconds):
    """A bound in seconds, stretched by NATRP_E2E_PATIENCE."""
    return seconds * PATIENCE


def wait_until(ready, seconds, what):
    """Polls `ready` until it returns something true, returns that; fails with `what` after `seconds`."""
    deadline = time.monotonic() + patient(seconds)
    pause = 0.005
    while True:
        result = ready()
        if result:
            return result
        if time.monotonic() > deadline:
            said = what() if callable(what) else what
            raise AssertionError(f"not within {patient(seconds):g} s: {said}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def loopback_address():
    """An address of 127/8 that nobody else uses: outgoing connections take 127.0.0.1, so the ports
    of this one can be lost neither to them nor to another run of the suite."""
    return ".".join(["127"] + [str(_random.randint(2, 253)) for _ in range(3)])


def family_of(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def free_port(host="127.0.0.1"):
    """A port that the kernel says is free on `host`."""
    return free_ports(host, 1)[0]


def free_ports(host, count):
    """`count` free ports in a row on `host`: the kernel names the first, the others are tried."""
    for _ in range(200):
        first = _bound(host, _first_port(host, count))
        if first is None:
            continue
        start = first.getsockname()[1]
        held = [first]
        try:
            for port in range(start + 1, start + count):
                sock = _bound(host, port) if port < 65536 else None
                if sock is None:
                    break
                held.append(sock)
            if len(held) == count:
                return list(range(start, start + count))
        finally:
            for sock in held:
                sock.close()
    raise AssertionError(f"no {count} free ports in a row on {host}")


def _first_port(host, count):
    """0, and the kernel names it; but on an address of outgoing connections none that one of them may be given before
    it is used."""
    if host not in ("127.0.0.1", "::1"):
        return 0
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as limits:
        lowest = int(limits.read().split()[0])
    return _random.randint(10_000, lowest - count) if lowest > 10_000 + count else 0


def _bound(host, port):
    sock = socket.socket(family_of(host), socket.SOCK_STREAM)
    try:
        sock.bind((host, port))
        return sock
    except OSError:
        sock.close()
        return None


def has_ipv6():
    sock = _bound("::1", 0) if socket.has_ipv6 else None
    if sock is None:
        return False
    sock.close()
    return True


def host_port(host, port):
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
