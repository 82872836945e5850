"""What an agent shows on its admin server: its tunnels, its numbers, whether visitors can come."""

import contextlib
import json
import resource
import socket
import time
import urllib.error
import urllib.request

import pytest

import net
from conftest import LOOPS
from net import patient, wait_until
from processes import assert_sentence
from rig import Setup
from sockets import check_echo, connect

pytestmark = pytest.mark.over([Setup(LOOPS[0], "auto")])


class Shown:
    """The admin server of an agent that is made with `options`."""

    def __init__(self):
        host = net.loopback_address()
        self.address = net.host_port(host, net.free_port(host))
        self.options = {"admin": self.address}

    def get(self, path):
        """(status, body)"""
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=patient(10)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def tunnels(self):
        status, body = self.get("/api/v1/tunnels")
        assert status == 200, body
        return json.loads(body)

    def metric(self, name):
        return next(int(line.split()[1]) for line in self.get("/metrics")[1].splitlines()
                    if line.startswith(name + " "))


def test_an_agent_shows_its_tunnels_and_numbers(yard):
    shown = Shown()
    rig = yard.rig(agent_options=shown.options)
    rig.check_echo()
    assert shown.get("/healthz") == (200, "ok\n")
    tunnels = shown.tunnels()
    assert tunnels == {
        "server": rig.edge.server, "peer": rig.edge.server, "client": "tester", "draining": False,
        "tunnels": [{"name": "default", "local": rig.service.local, "public_address": net.host_port(*rig.address),
                     "why_not": ""}]}
    visitor, service = rig.pair()
    visitor.send(b"x" * 1000)
    assert service.receive(1000) == b"x" * 1000
    assert shown.metric("natrp_sessions_live") == 1
    wait_until(lambda: shown.metric("natrp_pairs_live") == 1, 10, "the pair before this one is gone")
    wait_until(lambda: shown.metric("natrp_bytes_up_total") >= 1000, 10, "bytes up are counted")
    roles = {conn["role"] for conn in json.loads(shown.get("/api/v1/conns")[1])["conns"]}
    assert roles >= {"data channel", "service"}


def test_it_is_not_well_while_its_edge_is_away(yard):
    shown = Shown()
    rig = yard.rig(agent_options=shown.options)
    rig.edge.process.kill()
    why = f"tunnel 'default': no session with the edge {rig.edge.server}\n"
    wait_until(lambda: shown.get("/healthz") == (503, why), 10, lambda: f"{shown.get('/healthz')} is 503 and why")
    assert shown.metric("natrp_sessions_live") == 0
    (tunnel,) = shown.tunnels()["tunnels"]
    assert tunnel["public_address"] == "" and tunnel["why_not"] == f"no session with the edge {rig.edge.server}"
    assert shown.tunnels()["client"] == shown.tunnels()["peer"] == ""
    rig.edge.start()
    wait_until(lambda: shown.get("/healthz") == (200, "ok\n"), 20, "it is well again")


def test_it_says_which_tunnel_was_refused_and_why(yard):
    edge = yard.edge()
    port = int(edge.options["ports"].split("-")[0])
    shown = Shown()
    with socket.create_server((edge.bind[0], port)):
        agent = yard.agent(edge, edge.add_client(), yard.service(), start="unready", remote_port=port, **shown.options)
        agent.process.wait_for("tunnel refused for now")
        status, body = shown.get("/healthz")
        assert status == 503 and body.startswith(f"tunnel 'default': port {port}: cannot listen"), body
        assert body == f"tunnel 'default': {shown.tunnels()['tunnels'][0]['why_not']}\n"
    wait_until(lambda: shown.get("/healthz")[0] == 200, 20, "it has the tunnel")
    assert shown.tunnels()["tunnels"][0]["public_address"] == net.host_port(edge.bind[0], port)


def test_it_says_that_it_drains(yard):
    shown = Shown()
    rig = yard.rig(agent_options={**shown.options, "drain_seconds": 30})
    with contextlib.closing(connect(rig.address)) as visitor, contextlib.closing(rig.service.accept()) as service:
        check_echo(visitor, service)
        rig.agent.process.terminate()
        wait_until(lambda: shown.get("/healthz") == (503, "draining\n"), 10, "it drains")
        assert shown.tunnels()["draining"]
    began = time.monotonic()
    assert rig.agent.process.wait_exit(15) == 0
    assert time.monotonic() - began < patient(10)


def test_an_address_that_is_taken_is_a_sentence(yard):
    edge = yard.edge()
    agent = yard.agent(edge, edge.add_client(), yard.service(), start="unready", admin=edge.options["admin"])
    assert agent.process.wait_exit(15) == 2
    assert_sentence(agent.process.err.splitlines()[-1], "--admin")


def test_the_log_has_the_port_that_the_system_chose(yard):
    host = net.loopback_address()
    edge = yard.edge()
    agent = yard.agent(edge, edge.add_client(), yard.service(), admin=net.host_port(host, 0))
    ready = agent.process.wait_for(rf"admin server ready address={host}:\d+")
    shown = Shown()
    shown.address = ready[0].partition("address=")[2]
    assert shown.get("/healthz") == (200, "ok\n")


def test_dials_of_the_edge_that_fail_are_counted_and_said_once_a_second(yard):
    shown = Shown()
    rig = yard.rig(agent_options=shown.options)
    pid = rig.agent.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    said = "data channels could not be opened"
    began = time.monotonic()
    with contextlib.closing(connect(rig.address)) as visitor:
        visitor.wait_reset(15)  # its channel is made up for, and its service cannot be reached either
    rig.agent.process.wait_for(rf"{said}.*Too many open files")
    time.sleep(1.5)
    lines = sum(said in line for line in rig.agent.process.err.splitlines())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert lines <= time.monotonic() - began + 1
    assert shown.metric("natrp_dials_failed_total") >= 1
    wait_until(lambda: shown.metric("natrp_channels_ready") >= 1, 10, "there are channels again")
    rig.check_echo()
