"""The public port of an original natrp client: whose it is, how long it stays open, and who meets whom behind it."""

import json
import time

import pytest

from net import patient, wait_until
from sockets import Peer, check_echo, is_refused
from test_handover import hand_over
from test_natrp_grpc import CLIENT, first_that_got_bytes
from test_natrp_grpc import client, edge, grpc_js, service, tunnel  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.parametrize("edge", ["uring", "epoll"], indirect=True),
              pytest.mark.parametrize("client", ["grpcio"], indirect=True)]

AWAY_SECONDS = 15


def ended(process, code):
    return lambda: any(line.startswith(f"ended {code} ") for line in process.out.splitlines())


def test_a_removed_client_loses_its_streams_its_visitors_and_its_port(tunnel):
    visitor, service = tunnel.pair()
    check_echo(visitor, service)
    edge = tunnel.edge.edge
    code, out, err = edge.ctl("client", "remove", CLIENT)
    assert code == 0, out + err
    visitor.wait_ended(5)
    wait_until(lambda: is_refused(tunnel.edge.public, 1), 10, "the public port of a removed client closed")
    wait_until(ended(tunnel.process, "UNAUTHENTICATED"), 10, tunnel.process.describe)
    assert edge.process.alive


def test_the_port_is_listed_and_its_traffic_counted(tunnel):
    visitor, service = tunnel.pair()
    check_echo(visitor, service, 1000)
    edge = tunnel.edge.edge
    # A lease is written a little after it was given.
    wait_until(lambda: f"natrp={tunnel.edge.port}" in edge.ctl("client", "list")[1], 10, "the lease is in the store")
    assert edge.metric("natrp_visitors_total") == 1
    wait_until(lambda: edge.metric("natrp_bytes_up_total") >= 1000, 5, "bytes up are counted")
    wait_until(lambda: edge.metric("natrp_bytes_down_total") >= 1000, 5, "bytes down are counted")


def test_a_client_is_a_session_with_its_port_and_its_visitors(tunnel):
    edge = tunnel.edge.edge
    assert edge.metric("natrp_sessions_live") == 0 and not sessions(edge)
    visitor, service = tunnel.pair()
    check_echo(visitor, service)
    (session,) = sessions(edge)
    assert session["client"] == CLIENT and "original natrp" in session["software"]
    assert (session["visitors_live"], session["visitors_total"]) == (1, 1)
    (leased,) = session["tunnels"]
    assert (leased["name"], leased["port"]) == ("natrp", tunnel.edge.port)
    conns = json.loads(edge.get("/api/v1/conns"))["conns"]
    assert [conn["tunnel"] for conn in conns if conn["role"] == "visitor"] == [leased["id"]]
    values = edge.metrics()
    assert (values["natrp_sessions_live"], values["natrp_pairs_live"]) == (1, 1)
    visitor.close()
    wait_until(lambda: edge.metric("natrp_pairs_live") == 0, 5, "the visitor is no pair any more")
    wait_until(lambda: sessions(edge)[0]["visitors_live"] == 0, 5, "nor one of the session's")
    wait_until(lambda: sessions(edge)[0]["tunnels"][0]["visitors_live"] == 0, 5, "nor one of the tunnel's")
    leased, values = sessions(edge)[0]["tunnels"][0], edge.metrics()
    assert leased["bytes_up"] == values["natrp_bytes_up_total"] > 0
    assert leased["bytes_down"] == values["natrp_bytes_down_total"] > 0
    assert (leased["visitors_total"], leased["visitors_refused"]) == (1, 0)
    assert sessions(edge)[0]["visitors_total"] == 1
    assert edge.ctl("client", "remove", CLIENT)[0] == 0
    wait_until(lambda: not sessions(edge) and edge.metric("natrp_sessions_live") == 0, 5,
               "a client that was removed is no session any more")


def sessions(edge):
    return json.loads(edge.get("/api/v1/sessions"))["sessions"]


@pytest.mark.parametrize("leave", [Peer.reset, Peer.close], ids=["reset", "end"])
def test_a_visitor_that_leaves_while_it_waits_is_forgotten_long_before_its_ten_seconds(tunnel, leave):
    visitor, service = tunnel.pair()  # takes the only stream
    check_echo(visitor, service)
    edge = tunnel.edge.edge
    early = tunnel.visit()
    wait_until(lambda: sessions(edge)[0]["visitors_live"] == 2, 5, "the second visitor waits")
    leave(early)
    wait_until(lambda: sessions(edge)[0]["visitors_live"] == 1, 5, "the one that left is forgotten")
    values = edge.metrics()
    assert values["natrp_visitors_left_total"] == 1
    assert values["natrp_rendezvous_timeouts_total"] == 0 and values["natrp_visitors_refused_total"] == 0
    check_echo(visitor, service)


def test_the_port_outlives_its_client_for_a_while_and_comes_back_with_it(tunnel):
    visitor, service = tunnel.pair()
    check_echo(visitor, service)
    tunnel.process.kill()
    away = time.monotonic()
    visitor.wait_ended(5)
    late = tunnel.visit()
    late.wait_reset(12)
    assert time.monotonic() - away > 9, "a visitor is given ten seconds"
    assert tunnel.edge.edge.metric("natrp_rendezvous_timeouts_total") == 1
    wait_until(lambda: is_refused(tunnel.edge.public, 1), AWAY_SECONDS, "the port of a client that is away closed")
    assert time.monotonic() - away > AWAY_SECONDS - 1
    visitor, service = tunnel.pair()
    check_echo(visitor, service)


def test_streams_of_many_connections_serve_one_port(client, edge, service, tunnel):
    processes = [client.tunnel(edge, service) for _ in range(4)]
    for _ in processes:
        tunnel.keep(service.accept(30))
    service.forget()
    for _ in range(25):
        visitor = tunnel.visit()
        visitor.send(b"?")
        # Which of the four it is, is the edge's choice; each dials anew after each visitor.
        peers = [peer for peer in tunnel._peers if peer is not visitor]
        while service.waiting:
            peers.append(tunnel.keep(service.accept()))
        served = first_that_got_bytes(peers, service, tunnel)
        assert served.receive(1) == b"?"
        check_echo(visitor, served)
        visitor.close()
        assert served.receive_to_end(5).size == 0
        served.close()
        tunnel._peers.remove(served)
        tunnel._peers.remove(visitor)


def test_an_agent_of_today_that_has_the_tunnel_keeps_it(tunnel):
    edge = tunnel.edge.edge
    yard = tunnel.edge.yard
    token = edge.add_client("both", "--ports", str(tunnel.edge.port + 2))
    agent = yard.agent(edge, token, tunnel.service, name="natrp")
    said = tunnel.client.tunnel(tunnel.edge, tunnel.service, token=token)
    wait_until(ended(said, "UNAVAILABLE"), 10, said.describe)
    assert "held by another agent" in said.out
    agent.process.stop()
    tunnel.edge.port += 2
    tunnel.service.forget()
    tunnel.met(tunnel.visit())


def test_an_agent_of_today_takes_the_tunnel_over_only_when_told_to(tunnel):
    edge, yard = tunnel.edge.edge, tunnel.edge.yard
    assert edge.ctl("client", "remove", CLIENT)[0] == 0
    token = tunnel.edge.token = edge.add_client(CLIENT, "--ports", str(tunnel.edge.port))
    tunnel.open()
    visitor = tunnel.visit()
    service = tunnel.met(visitor)
    check_echo(visitor, service)
    yard.agent(edge, token, tunnel.service, name="natrp", start="unready").refused("held by another agent")
    agent = yard.agent(edge, token, tunnel.service, name="natrp", on_conflict="replace")
    assert agent.address == tunnel.edge.public
    check_echo(visitor, service)  # what flows, flows on
    visitor.close()
    wait_until(ended(tunnel.process, "UNAVAILABLE"), 10, tunnel.process.describe)


def test_a_handover_leaves_a_visitor_where_it_flows_and_the_next_stream_opens_the_port_again(tunnel):
    services = tunnel.open(2)
    visitor = tunnel.visit()
    visitor.send(b"?")
    serving = first_that_got_bytes(services, tunnel.service, tunnel)
    assert serving.receive(1) == b"?"
    check_echo(visitor, serving)
    tunnel.service.forget()

    old = tunnel.edge.edge.process
    successor = tunnel.edge.yard.closing(hand_over(tunnel.edge.edge))
    another = tunnel.visit(seconds=60)  # gRPC's own back-off
    check_echo(another, tunnel.met(another))

    assert old.alive, "what flows through the old edge goes on"
    check_echo(visitor, serving)
    visitor.close()
    assert serving.receive_to_end(10).size == 0
    assert old.wait_exit(15) == 0, old.describe()
    successor.stop()
