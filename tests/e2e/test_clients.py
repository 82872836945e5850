"""natrpctl beside a running edge and beside a stopped one: its changes are honoured at once."""

import re

import pytest

import net
from conftest import CONTROL
from net import wait_until
from processes import EXIT_REFUSED
from sockets import check_echo, connect, is_refused
from test_refused import ports_of

CHANGED = "a client may have other things than before"


@pytest.fixture
def ctl_edge(yard):
    edge = yard.edge(start=False)
    edge.add_client("tester")
    return edge


def test_a_client_may_be_added_before_the_edge_has_ever_run(yard):
    edge = yard.edge(start=False)
    token = edge.add_client()
    edge.start()
    yard.agent(edge, token, yard.service())


def test_a_state_folder_that_was_not_there_is_told_of(yard):
    edge = yard.edge(start=False)
    folder = edge.options["state"]
    code, out, err = edge.ctl("client", "add", "first")
    assert code == 0 and str(folder) in err and "made" in err, out + err
    assert out.split()[-1].startswith("ntrp1_")
    code, out, err = edge.ctl("client", "add", "second")
    assert code == 0 and err == "", out + err


def test_a_removed_client_loses_its_session_and_its_port_at_once(yard):
    rig = yard.rig()
    rig.check_echo()
    code, out, err = rig.edge.ctl("client", "remove", "tester")
    assert code == 0, out + err
    rig.agent.refused("client|token|removed")
    wait_until(lambda: is_refused(rig.address, 1), 10, "the public port of a removed client closed")
    _, out, _ = rig.edge.ctl("client", "list")
    assert "tester" not in out
    assert rig.edge.process.alive


def test_removing_one_client_leaves_the_others_alone(yard):
    rig = yard.rig()
    rig.edge.add_client("other")
    assert rig.edge.ctl("client", "remove", "other")[0] == 0
    rig.check_echo()
    assert rig.agent.process.err.count("session established") == 1


def test_a_rotated_token_replaces_the_old_one(yard):
    rig = yard.rig()
    before = rig.address
    code, out, err = rig.edge.ctl("token", "rotate", "tester")
    assert code == 0, out + err
    token = out.split()[-1]
    assert token != rig.token
    rig.agent.refused("gave client 'tester' a new token", seconds=1)
    stale = yard.agent(rig.edge, rig.token, rig.service, start="unready")
    stale.refused("token")
    rig.agent.options["token"] = token
    rig.agent.start()
    assert rig.address == before
    rig.check_echo()


def test_the_edges_log_says_what_natrpctl_did(yard):
    edge = yard.edge()
    edge.add_client("guest")
    edge.process.wait_for("a client was added client=guest")
    assert edge.ctl("token", "rotate", "guest")[0] == 0
    edge.process.wait_for("a client has a new token.*client=guest")
    assert edge.ctl("client", "remove", "guest")[0] == 0
    edge.process.wait_for("a client was removed client=guest")


# --- what a client may have is changed ---

def set_limits(edge, *words):
    """What natrpctl prints; the running edge has seen it."""
    lines = edge.process.err.count(CHANGED)
    code, out, err = edge.ctl("client", "set", "tester", *words)
    assert code == 0, out + err
    wait_until(lambda: edge.process.err.count(CHANGED) > lines, 5, "the edge saw what was changed")
    assert edge.process.err.count(CHANGED) == lines + 1
    return out


def two_tunnels(yard, edge, token, first_service, second_service, **first_options):
    """An agent of the tunnels first and second, both with a port."""
    file = yard.path("agent.toml")
    lines = ["[[tunnel]]", 'name = "first"', f'local = "{first_service.local}"',
             *(f"{key} = {value}" for key, value in first_options.items()),
             "[[tunnel]]", 'name = "second"', f'local = "{second_service.local}"']
    file.write_text("\n".join(lines) + "\n")
    agent = yard.agent(edge, token, "", start=False)
    agent.options = {"server": edge.server, "token": token, "config": file, **yard.setup.flags}
    agent.start()
    agent.wait_address(2)
    return agent


def test_more_visitors_are_let_in_while_one_flows(yard):
    rig = yard.rig(client=("--conns-max", "1"))
    visitor, service = rig.pair()
    assert is_refused(rig.address), "a second visitor was let in"
    out = set_limits(rig.edge, "--conns-max", "2")
    assert re.search(r"'tester'.*ports any, tunnels any, visitors at once 2\b", out), out
    rig.check_echo()
    check_echo(visitor, service)
    assert len(rig.agent.addresses()) == 1, "the session was interrupted"


def test_fewer_visitors_are_let_in_and_those_that_flow_stay(yard):
    rig = yard.rig()
    pairs = [rig.pair() for _ in range(2)]
    set_limits(rig.edge, "--conns-max", "2")
    assert is_refused(rig.address), "a third visitor was let in"
    for visitor, service in pairs:
        check_echo(visitor, service)
    assert len(rig.agent.addresses()) == 1, "the session was interrupted"


def test_a_tunnel_that_loses_its_port_has_another_and_its_visitor_flows_on(yard):
    rig = yard.rig()
    before = rig.address
    visitor, service = rig.pair()
    left = [port for port in ports_of(rig.edge) if port != before[1]]
    set_limits(rig.edge, "--ports", ",".join(map(str, left)))
    address = rig.agent.wait_address(2)
    assert address[1] in left
    assert re.search(rf"(?i)refused this agent for now: .*operator changed.*port {before[1]} is not among its ports",
                     rig.agent.process.err)
    assert is_refused(before, 1)
    check_echo(visitor, service)
    check_echo(yard.peer(address), rig.accept())
    set_limits(rig.edge, "--ports", "any", "--tunnels-max", "1")
    check_echo(visitor, service)
    assert len(rig.agent.addresses()) == 2, "the session was interrupted though it has nothing that it may not have"


def test_a_tunnel_that_wants_the_port_it_lost_is_refused_and_the_other_comes_back(yard):
    edge = yard.edge()
    token = edge.add_client("tester")
    ports = ports_of(edge)
    first, second = yard.service(), yard.service()
    agent = two_tunnels(yard, edge, token, first, second, remote_port=ports[0])
    other = next(address for address in agent.addresses() if address[1] != ports[0])
    visitor = yard.peer((other[0], ports[0]))
    pair = visitor, first.accept()
    set_limits(edge, "--ports", f"{ports[1]}-{ports[-1]}")
    assert agent.wait_address(3) == other
    agent.process.wait_for(rf"tunnel refused: client 'tester' may not have port {ports[0]}.*tunnel=first")
    check_echo(*pair)
    check_echo(yard.peer(other), second.accept())
    assert is_refused((other[0], ports[0]), 1) and agent.process.alive


def test_an_agent_of_too_many_tunnels_comes_back_with_fewer(yard):
    edge = yard.edge()
    token = edge.add_client("tester")
    first, second = yard.service(), yard.service()
    agent = two_tunnels(yard, edge, token, first, second)
    kept, lost = agent.addresses()
    visitor = yard.peer(lost)
    pair = visitor, second.accept()
    set_limits(edge, "--tunnels-max", "1")
    assert agent.wait_address(3) == kept
    agent.process.wait_for(r"tunnel refused: .*may have 1 tunnel at a time; .*tunnel=second")
    check_echo(*pair)
    assert is_refused(lost, 1)
    check_echo(yard.peer(kept), first.accept())


def test_limits_are_changed_beside_a_stopped_edge_too(yard):
    rig = yard.rig(client=("--conns-max", "5", "--tunnels-max", "7"))
    before = rig.address
    rig.edge.process.stop()
    left = next(port for port in ports_of(rig.edge) if port != before[1])
    code, out, err = rig.edge.ctl("client", "set", "tester", "--conns-max", "1", "--ports", str(left))
    assert code == 0, out + err
    assert f"ports {left}, tunnels 7, visitors at once 1." in out
    assert re.search(rf"^tester +{left} +7 +1 +no ", rig.edge.ctl("client", "list")[1], re.MULTILINE)
    rig.edge.start()
    address = rig.agent.wait_address(2)
    assert address[1] == left, "the token does not hold, or the policy"
    check_echo(yard.peer(address), rig.accept())


@pytest.mark.over(CONTROL[:1])
def test_changing_a_client_makes_no_state_folder(yard):
    edge = yard.edge(start=False)
    code, out, err = edge.ctl("client", "set", "tester", "--conns-max", "1")
    assert code == EXIT_REFUSED and "client add" in err, out + err
    assert not edge.state.exists()


@pytest.mark.over(CONTROL[:1])
def test_changing_a_client_that_is_not_there_is_answered_like_removing_it(ctl_edge):
    answers = {ctl_edge.ctl(*words) for words in (("client", "set", "nobody", "--conns-max", "1"),
                                                  ("client", "remove", "nobody"), ("token", "rotate", "nobody"))}
    assert len(answers) == 1, answers


@pytest.mark.over(CONTROL[:1])
def test_the_last_word_is_the_join_token_also_beside_a_plain_token(ctl_edge):
    for words in (("client", "add", "both", "--plain-token"), ("token", "rotate", "both"),
                  ("token", "rotate", "tester", "--plain-token")):
        code, out, err = ctl_edge.ctl(*words)
        assert code == 0, err
        assert re.search(r"^[0-9a-f]{64}$", out, re.MULTILINE), f"{words} made no plain token"
        assert out.split()[-1].startswith("ntrp1_"), words


def test_the_list_of_clients_names_them_and_shows_no_token(yard):
    edge = yard.edge()
    tokens = [edge.add_client("alice"), edge.add_client("bob", "--ports", edge.options["ports"])]
    code, out, err = edge.ctl("client", "list")
    assert code == 0, err
    assert re.search(r"\balice\b", out) and re.search(r"\bbob\b", out)
    for token in tokens:
        assert token not in out and token[6:30] not in out
    edge.process.stop()
    stopped = edge.ctl("client", "list")[1]
    assert "alice" in stopped and "bob" in stopped


def test_live_sessions_are_listed_with_what_each_tunnel_carries(yard):
    edge = yard.edge()
    admin = ("--admin", edge.options["admin"])
    token = edge.add_client()
    code, out, err = edge.ctl("session", "list", *admin)
    assert code == 0 and "no sessions" in out, out + err
    service = yard.service()
    agent = yard.agent(edge, token, service)
    visitor = connect(agent.address)
    peer = service.accept()
    visitor.send(bytes(1_500_000))
    assert len(peer.receive(1_500_000)) == 1_500_000
    port = agent.address[1]

    def row():
        code, out, err = edge.ctl("session", "list", *admin)
        assert code == 0 and out.startswith("CLIENT "), out + err
        return re.search(rf"^tester +\d+ +127\.\S+:\d+ +\S+ +{port} +1 +1 +0 +1\.5 MB +0 B$", out, re.MULTILINE)

    wait_until(row, 10, "the tunnel is listed, with its visitor and its bytes")


def test_who_asks_the_wrong_address_for_sessions_is_told_so(yard):
    edge = yard.edge()
    host = net.loopback_address()
    agent = yard.agent(edge, edge.add_client(), yard.service(), admin=net.host_port(host, net.free_port(host)))
    edge.process.stop()
    code, out, err = edge.ctl("session", "list", "--admin", edge.options["admin"])
    assert code == EXIT_REFUSED and "nobody listens there" in err and "--admin" in err, out + err
    code, out, err = edge.ctl("session", "list", "--admin", agent.options["admin"])
    assert code == EXIT_REFUSED and "none of an edge" in err and "404" in err, out + err
    code, out, err = edge.ctl("session", "list", "--admni", edge.options["admin"])
    assert code == EXIT_REFUSED and "did you mean --admin?" in err, out + err


def test_a_state_folder_that_cannot_be_looked_at_is_told_of(yard):
    edge = yard.edge(start=False)
    edge.options["state"] = yard.path("x" * 300)
    code, out, err = edge.ctl("client", "add", "first")
    assert code == EXIT_REFUSED and "File name too long" in err and "terminate called" not in err, out + err


@pytest.mark.over(CONTROL[:1])
@pytest.mark.parametrize("words", [
    ("client", "remove", "nobody"), ("token", "rotate", "nobody"), ("client", "add"), ("client", "frobnicate"),
    ("client", "add", "tester"), ("client", "add", "new", "--ports", "9-3"), ("client", "add", "new", "--ports", "x"),
    ("client", "set"), ("client", "set", "tester"), ("client", "set", "tester", "--ports", "x"),
    ("client", "set", "tester", "--ports", "9-3"), ("client", "set", "tester", "--conns-max", "-1"),
    ("client", "set", "tester", "--conns-max", "1", "--plain-token"), ("client", "set", "new", "--conns-max", "1"),
    ("client", "add", "new", "--tunnels-max", "-1"), ("client", "add", "new", "--frobnicate"), ("frobnicate",)],
    ids=lambda words: " ".join(words))
def test_natrpctl_says_what_is_wrong(ctl_edge, words):
    code, out, err = ctl_edge.ctl(*words)
    assert code == EXIT_REFUSED, f"exit code {code} of {words}: {out}"
    assert len(err.split()) >= 4, f"no sentence on standard error: {err!r}"
    assert ctl_edge.ctl("client", "list")[1].count("tester") == 1
    assert "new" not in ctl_edge.ctl("client", "list")[1]
