"""A session is lost and comes back: the same client finds the same port, whoever was killed."""

import re
import socket
import sqlite3
import time

import pytest

from conftest import LOOPS
from net import wait_until
from rig import Setup

ONE = [Setup(LOOPS[0], "auto")]


def check_reached(yard, agent, service):
    """A visitor of this agent's tunnel reaches this service."""
    visitor = yard.peer(agent.address)
    visitor.send(b"hello")
    assert yard.closing(service.accept()).receive(5) == b"hello"


def test_a_killed_agent_comes_back_on_the_same_port(yard):
    rig = yard.rig()
    before = rig.address
    for _ in range(2):
        rig.agent.process.kill()
        rig.agent.start()
        assert rig.address == before
        rig.check_echo()


def test_a_killed_edge_comes_back_with_the_same_port_and_the_agent_finds_it_alone(yard):
    rig = yard.rig()
    before = rig.address
    rig.edge.process.kill()
    rig.edge.start()
    assert rig.agent.wait_address(2) == before
    rig.check_echo()


def test_both_killed_and_the_edge_back_first_gives_the_same_port(yard):
    rig = yard.rig()
    before = rig.address
    rig.edge.process.kill()
    rig.agent.process.kill()
    rig.edge.start()
    rig.agent.start()
    assert rig.address == before
    rig.check_echo()


def test_both_killed_and_the_agent_back_first_gives_the_same_port(yard):
    rig = yard.rig()
    before = rig.address
    rig.agent.process.kill()
    rig.edge.process.kill()
    rig.agent.start(ready=False)
    time.sleep(0.7)  # it finds nobody, and has to keep trying
    assert rig.agent.process.alive, rig.agent.process.describe()
    rig.edge.start()
    assert rig.agent.wait_address() == before
    rig.check_echo()


def forget_leases(edge):
    with sqlite3.connect(f"{edge.state}/natrp.db") as store:
        store.execute("DELETE FROM leases")
    store.close()


def test_an_agent_that_lives_on_has_its_port_again_though_the_edge_has_forgotten_it(yard):
    rig = yard.rig()
    anew = rig.address
    rig.agent.process.stop()
    rig.edge.process.stop()
    forget_leases(rig.edge)
    with socket.create_server(anew):
        rig.edge.start()
        rig.agent.start()
    had = rig.address
    assert had != anew
    rig.edge.process.kill()
    forget_leases(rig.edge)
    rig.edge.start()
    assert rig.agent.wait_address(2) == had
    rig.check_echo()


def test_the_port_that_comes_back_is_the_one_it_had_and_not_the_one_it_would_get_anew(yard):
    # A tunnel that was never seen always begins its search at the same port: only another one proves a memory.
    rig = yard.rig()
    anew = rig.address
    first, last = (int(word) for word in rig.edge.options["ports"].split("-"))
    had = (anew[0], next(port for port in range(first, last + 1) if port != anew[1]))
    rig.agent.process.stop()
    rig.agent.options["remote_port"] = had[1]
    rig.agent.start()
    assert rig.address == had
    # Who kills an edge has what it wrote: a lease is written within 20 ms.
    wait_until(lambda: str(had[1]) in rig.edge.ctl("client", "list")[1], 5, "the lease is in the store")
    rig.agent.options["remote_port"] = None
    for restarted in ("agent", "edge and agent"):
        rig.agent.process.kill()
        if restarted != "agent":
            rig.edge.process.kill()
            rig.edge.start()
        rig.agent.start()
        assert rig.address == had, f"another port after a restart of {restarted}"
        rig.check_echo()


@pytest.mark.over(ONE)
def test_an_agent_whose_edge_is_away_tries_every_other_second_and_says_so_now_and_then(yard):
    rig = yard.rig()
    rig.edge.process.kill()
    rig.agent.process.wait_for("failures=8", 40)
    said = [line for line in rig.agent.process.err.splitlines() if "cannot reach the edge" in line]
    assert [line.rsplit("=", 1)[1] for line in said] == ["1", "2", "4", "8"], rig.agent.process.describe()
    assert all(int(re.search(r"retry_ms=(\d+)", line)[1]) <= 2000 for line in said), said
    rig.edge.start()
    rig.agent.wait_address(2)
    rig.check_echo()


def test_an_agent_may_start_before_its_edge_exists(yard):
    rig = yard.rig()
    rig.agent.process.stop()
    rig.edge.process.stop()
    rig.agent.start(ready=False)
    time.sleep(0.5)
    rig.edge.start()
    rig.agent.wait_address()
    rig.check_echo()


def test_a_port_in_grace_is_kept_from_other_clients(yard):
    rig = yard.rig(edge_options={"public_ports": 2})
    before = rig.address
    rig.agent.process.kill()
    other = yard.agent(rig.edge, rig.edge.add_client("other"), rig.service)
    assert other.address != before
    rig.agent.start()
    assert rig.address == before
    rig.check_echo()


def test_after_an_edge_restart_no_other_client_gets_the_port_of_an_agent_that_is_late(yard):
    rig = yard.rig(edge_options={"public_ports": 2})
    before = rig.address
    rig.agent.process.kill()
    rig.edge.process.stop()
    rig.edge.start()
    yard.agent(rig.edge, rig.edge.add_client("patient"), rig.service)  # it takes the other port of the two
    greedy = yard.agent(rig.edge, rig.edge.add_client("greedy"), rig.service, start="unready", remote_port=before[1])
    greedy.process.wait_for("tunnel refused for now.*kept for another client")
    full = yard.agent(rig.edge, rig.edge.add_client("full"), rig.service, start="unready")
    full.process.wait_for("tunnel refused for now")
    rig.agent.start()
    assert rig.address == before
    rig.check_echo()
    assert not greedy.addresses() and not full.addresses()


@pytest.mark.over(ONE)
def test_after_an_edge_restart_a_client_keeps_as_many_ports_as_it_may_have_and_no_more(yard):
    edge = yard.edge(public_ports=3)
    service = yard.service()
    token = edge.add_client("alice", "--tunnels-max", "1")
    for name in ("first", "second", "third"):
        agent = yard.agent(edge, token, service, name=name)
        agent.process.stop()
    edge.process.stop()
    edge.start()
    others = [yard.agent(edge, edge.add_client(name), service).address for name in ("bob", "carol")]
    assert agent.address not in others
    before = agent.address
    agent.start()
    assert agent.address == before


def test_an_edge_restart_costs_an_agent_one_reconnect(yard):
    rig = yard.rig()
    before, pid = rig.address, rig.agent.process.pid
    rig.edge.process.stop()
    rig.edge.start()
    assert rig.agent.wait_address(2) == before
    time.sleep(1.0)
    assert rig.agent.addresses() == [before, before]
    assert rig.agent.process.err.count("session established") == 2
    assert rig.agent.process.alive and rig.agent.process.pid == pid
    rig.check_echo()


@pytest.mark.over(ONE)
def test_a_session_whose_network_goes_silent_is_given_up_by_both_ends_and_comes_back(yard):
    rig = yard.rig(wire=True)
    before = rig.address
    for link in rig.wire.live():
        link.silent = True
    # Three heartbeats of 5 s go missing, then the agent dials again; new links are not silenced.
    assert rig.agent.wait_address(2, seconds=60) == before
    wait_until(lambda: rig.metric("natrp_sessions_live") == 1, 30, "the silent session was given up by the edge")
    rig.check_echo()


@pytest.mark.over(ONE)
def test_a_session_that_is_reset_comes_back_and_leaves_running_visitors_alone(yard):
    rig = yard.rig(wire=True)
    before = rig.address
    visitor, service = rig.pair()
    visitor.send(b"before the control channel broke")
    service.receive(32)
    control = next(link for link in rig.wire.live() if link.up.head[:1] == b"\x16")
    control.cut()
    assert rig.agent.wait_address(2) == before
    service.send(b"after")
    assert visitor.receive(5) == b"after"
    rig.check_echo()


# --- two agents of one client ----------------------------------------------------------------------------

def test_a_second_agent_of_a_tunnel_is_refused_while_the_first_serves(yard):
    rig = yard.rig()
    second = yard.agent(rig.edge, rig.token, yard.service(), start="unready")
    second.refused("agent|session|tunnel")
    assert not second.addresses()
    rig.check_echo()


def test_an_agent_that_was_replaced_while_it_was_away_does_not_take_the_tunnel_back(yard):
    rig = yard.rig(agent_options={"on_conflict": "replace"}, wire=True)
    before = rig.address
    service = yard.service()
    with rig.agent.process.frozen():
        for link in rig.wire.live():
            link.cut()
        rig.edge.process.wait_for("session ended")
        second = yard.agent(rig.edge, rig.token, service, on_conflict="replace")
        assert second.address == before
    rig.agent.refused("another agent")
    check_reached(yard, second, service)


def test_a_second_agent_with_replace_takes_the_tunnel_over(yard):
    rig = yard.rig()
    before = rig.address
    service = yard.service()
    second = yard.agent(rig.edge, rig.token, service, on_conflict="replace")
    assert second.address == before
    rig.agent.refused("replace|taken over|another agent")
    check_reached(yard, second, service)
    assert rig.service.accepted_none()


def test_a_tunnel_that_a_living_agent_has_is_refused_and_the_edge_knows_where_that_is(yard):
    rig = yard.rig()
    second = yard.agent(rig.edge, rig.token, "127.0.0.1:9", start="unready")
    second.refused("held by another agent that is alive")
    assert "it is at" not in second.process.err
    rig.edge.process.wait_for(r"held by another agent that is alive.*; it is at 127\.")
    rig.check_echo()


def test_two_agents_of_one_client_serve_two_tunnels(yard):
    rig = yard.rig(agent_options={"name": "first"})
    service = yard.service()
    second = yard.agent(rig.edge, rig.token, service, name="second")
    assert second.address != rig.address
    rig.check_echo()
    check_reached(yard, second, service)
    # Each finds its own port again.
    addresses = rig.address, second.address
    rig.edge.process.kill()
    rig.edge.start()
    assert (rig.agent.wait_address(2), second.wait_address(2)) == addresses
    rig.check_echo()
