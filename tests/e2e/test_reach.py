"""What an agent can expose and where an edge can listen; and what a visitor sees when the service is not there."""

import json
import os
import select
import socket
import time

import pytest

import net
from conftest import CONTROL
from net import wait_until
from sockets import RESET, Content, Service, check_echo, check_received, connect, exchange


def reaches(yard, address, service):
    """A visitor of `address` arrives at `service`, and bytes flow both ways until FIN."""
    visitor = yard.peer(address)
    exchange(visitor, yard.closing(service.accept()), Content(70_000, 61), Content(80_000, 62))


def test_a_unix_socket_service_is_reached(yard):
    edge = yard.edge()
    service = yard.service(path=yard.path("service.sock"))
    agent = yard.agent(edge, edge.add_client(), service)
    reaches(yard, agent.address, service)
    # FIN crosses the change of family too.
    visitor, reached = yard.peer(agent.address), yard.closing(service.accept())
    visitor.finish()
    assert reached.receive_to_end(15).size == 0
    late = Content(5_000, 63)
    reached.send_content(late, finish=True)
    check_received(visitor.receive_to_end(15), late, who="the visitor")


@pytest.mark.skipif(not net.has_ipv6(), reason="this machine has no ::1")
def test_an_edge_on_ipv6_and_a_service_on_ipv6(yard):
    # Without --public-bind the public ports listen on the address of --bind; without --public-address the
    # agent prints the host that it dialled.
    edge = yard.edge(host="::1", public_address=None)
    service = yard.service(host="::1")
    agent = yard.agent(edge, edge.add_client(), service)
    assert agent.address[0] == "::1"
    reaches(yard, agent.address, service)


@pytest.mark.skipif(not net.has_ipv6(), reason="this machine has no ::1")
def test_ipv6_visitors_reach_an_ipv4_service(yard):
    edge = yard.edge(host="::1", public_bind="::1")
    service = yard.service()
    agent = yard.agent(edge, edge.add_client(), service)
    reaches(yard, agent.address, service)


def test_public_ports_listen_where_public_bind_says(yard):
    elsewhere = net.loopback_address()
    edge = yard.edge(public_bind=elsewhere, public_address=elsewhere)
    service = yard.service()
    agent = yard.agent(edge, edge.add_client(), service)
    assert agent.address[0] == elsewhere
    reaches(yard, agent.address, service)
    with pytest.raises(ConnectionRefusedError):
        connect((edge.bind[0], agent.address[1]))


def test_host_names_are_resolved_by_the_agent(yard):
    edge = yard.edge()
    service = yard.service()
    agent = yard.agent(edge, edge.add_client(), f"localhost:{service.address[1]}")
    reaches(yard, agent.address, service)


def test_several_tunnels_of_one_file_each_reach_their_service(yard):
    edge = yard.edge()
    services = [yard.service() for _ in range(3)]
    wanted = int(edge.options["ports"].split("-")[0]) + 9
    lines = [f'server = "{edge.server}"', f'token = "{edge.add_client()}"']
    for number, service in enumerate(services):
        lines += ["", "[[tunnel]]", f'name = "tunnel{number}"', f'local = "{service.local}"']
    lines.append(f"remote_port = {wanted}")
    file = yard.path("agent.toml")
    file.write_text("\n".join(lines) + "\n")
    agent = yard.agent(edge, None, "", start=False)
    agent.options = {"config": file, **yard.setup.flags}
    agent.start()
    agent.wait_address(3)
    addresses = agent.addresses()
    assert len(set(addresses)) == 3
    assert (edge.options["public_address"], wanted) in addresses
    # The lines come in any order: what each port reaches is found out, and has to be a different service each.
    reached = set()
    for address in addresses:
        visitor = yard.peer(address)
        number, peer = _first_to_accept(services)
        check_echo(visitor, yard.closing(peer))
        reached.add(number)
        if address[1] == wanted:
            assert number == 2, "the wanted port leads to another tunnel's service"
    assert reached == {0, 1, 2}


def _first_to_accept(services):
    def one():
        for number, service in enumerate(services):
            if service.waiting:
                return number, service.accept()
        return None
    return wait_until(one, 15, "one of the services was reached")


# --- the service is not there ----------------------------------------------------------------------------------

def seconds_to_reset(address):
    start = time.monotonic()
    try:
        visitor = connect(address)
    except ConnectionResetError:  # before connect(2) had told of it
        return time.monotonic() - start
    try:
        check_received(visitor.receive_to_end(15), Content(0), RESET, "the visitor")
        return time.monotonic() - start
    finally:
        visitor.close()


def test_a_visitor_of_a_service_that_is_down_is_reset_at_once_and_counted(yard):
    service = yard.service()
    edge = yard.edge()
    agent = yard.agent(edge, edge.add_client(), service)
    reaches(yard, agent.address, service)
    failures = edge.metric("natrp_service_failures_total")
    service.close()

    # One of five has to be prompt: the machine may be busy, but nothing waits for a timer.
    waits = [seconds_to_reset(agent.address) for _ in range(5)]
    assert min(waits) < 0.5, f"visitors were reset after {waits} s"
    wait_until(lambda: edge.metric("natrp_service_failures_total") - failures >= 5, 10,
               "the edge counted five failures of the service")
    agent.process.wait_for(rf"{service.address[1]}\b.*refused|refused.*{service.address[1]}\b")

    back = yard.closing(Service(service.address[0], service.address[1]))
    reaches(yard, agent.address, back)


def test_a_service_whose_name_has_no_address_is_named_on_both_ends(yard):
    edge = yard.edge()
    agent = yard.agent(edge, edge.add_client(), "nowhere.invalid:80")  # RFC 6761: never an address
    seconds_to_reset(agent.address)
    for process in (agent.process, edge.process):
        process.wait_for("nowhere.invalid:80: its name has no address yet")
    assert agent.process.alive, agent.process.describe()


def test_bytes_behind_a_descriptor_that_a_unix_service_passes_arrive(yard):
    edge = yard.edge()
    service = yard.service(path=yard.path("service.sock"))
    agent = yard.agent(edge, edge.add_client(), service)
    visitor = yard.peer(agent.address)
    accepted = yard.closing(service.accept())
    time.sleep(0.2)  # the agent waits for the first bytes
    # Both are there when the agent looks, and a read stops between them.
    with agent.process.frozen():
        with open(os.devnull) as passed:
            socket.send_fds(accepted.sock, [b"first,"], [passed.fileno()])
        accepted.send(b"second")
    assert visitor.receive(12) == b"first,second"


def test_a_unix_service_that_is_not_there_resets_its_visitor(yard):
    edge = yard.edge()
    path = yard.path("nobody.sock")
    agent = yard.agent(edge, edge.add_client(), f"unix:{path}")
    seconds_to_reset(agent.address)
    service = yard.service(path=path)
    reaches(yard, agent.address, service)


@pytest.mark.over(CONTROL[:1])
def test_visitors_of_an_agent_that_is_frozen_are_reset_in_ten_seconds_and_counted(yard):
    rig = yard.rig()
    rig.check_echo()
    with rig.agent.process.frozen():
        start = time.monotonic()
        # The channels that are ready take the first of them; the others find none, and nobody dials another.
        waiting = [connect(rig.address) for _ in range(80)]
        wait_until(lambda: rig.metric("natrp_rendezvous_timeouts_total") > 0, 20, "the edge counted a visitor's end")
        took = time.monotonic() - start
        assert took > 5, f"a visitor was given up after {took:.1f} s"
        # It is counted first, and told then.
        ended = wait_until(lambda: [visitor for visitor in waiting if select.select([visitor.sock], [], [], 0)[0]], 5,
                           "somebody was told")
        for visitor in ended:
            check_received(visitor.receive_to_end(5), Content(0), RESET, "the visitor")
    for visitor in waiting:
        visitor.close()

    def all_let_go():
        # The agent still dials the service for visitors that it was told of while it was frozen.
        rig.service.forget()
        return rig.metric("natrp_pairs_live") == 0

    wait_until(all_let_go, 30, "everything was let go")
    wait_until(rig.service.accepted_none, 20, "the last late visitor reached the service")
    wait_until(lambda: rig.metric("natrp_sessions_live") == 1, 30, "the agent is back")
    rig.check_echo()


# --- what the edge tells ------------------------------------------------------------------------------------------

def test_the_admin_pages_show_the_session_and_the_live_connection(rig):
    assert rig.edge.get("/healthz")
    sessions = rig.edge.get("/api/v1/sessions")
    assert "tester" in sessions and json.loads(sessions)
    assert rig.metric("natrp_sessions_live") == 1

    def tunnel():
        return json.loads(rig.edge.get("/api/v1/sessions"))["sessions"][0]["tunnels"][0]

    before, tunnel_before = rig.edge.metrics(), tunnel()
    visitor, service = rig.pair()
    check_echo(visitor, service, 10_000)
    wait_until(lambda: tunnel()["bytes_down"] - tunnel_before["bytes_down"] == 10_000, 10,
               lambda: f"the bytes of a live visitor are its tunnel's: {tunnel()}")
    wait_until(lambda: tunnel()["visitors_live"] == 1, 10, "nobody else is left")
    first = rig.edge.get("/api/v1/conns")
    assert json.loads(first)
    peer = f'"127.0.0.1:{visitor.sock.getsockname()[1]}"'
    assert peer in first, f"the visitor from {peer} is not among the connections: {first}"
    service.send(bytes(50_000))
    visitor.receive(50_000)
    wait_until(lambda: rig.edge.get("/api/v1/conns") != first, 10, "the counters of a live connection moved")

    visitor.close()
    service.close()
    wait_until(lambda: rig.metric("natrp_pairs_live") == 0, 15, "the pair ended")
    after = rig.edge.metrics()
    assert after["natrp_visitors_total"] - before["natrp_visitors_total"] == 1
    assert after["natrp_bytes_up_total"] - before["natrp_bytes_up_total"] == 10_000
    assert after["natrp_bytes_down_total"] - before["natrp_bytes_down_total"] == 60_000
    wait_until(lambda: tunnel()["visitors_live"] == 0, 10, "it is counted as over")
    counted = tunnel()
    assert {key: counted[key] - tunnel_before[key] for key in ("visitors_total", "visitors_refused", "bytes_up",
                                                               "bytes_down")
            } == {"visitors_total": 1, "visitors_refused": 0, "bytes_up": 10_000, "bytes_down": 60_000}
    line = f'natrp_tunnel_bytes_total{{client="tester",tunnel="default",direction="down"}} {counted["bytes_down"]}\n'
    assert line in rig.edge.get("/metrics")
    assert peer not in rig.edge.get("/api/v1/conns")
    assert after["natrp_build_info"] == 1 and 0 <= time.time() - after["process_start_time_seconds"] < 3600
