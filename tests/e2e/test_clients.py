"""natrpctl beside a running edge and beside a stopped one: its changes are honoured at once."""

import re

import pytest

from conftest import CONTROL
from net import wait_until
from processes import EXIT_REFUSED
from sockets import is_refused


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


def test_a_state_folder_that_cannot_be_looked_at_is_told_of(yard):
    edge = yard.edge(start=False)
    edge.options["state"] = yard.path("x" * 300)
    code, out, err = edge.ctl("client", "add", "first")
    assert code == EXIT_REFUSED and "File name too long" in err and "terminate called" not in err, out + err


@pytest.mark.over(CONTROL[:1])
@pytest.mark.parametrize("words", [
    ("client", "remove", "nobody"), ("token", "rotate", "nobody"), ("client", "add"), ("client", "frobnicate"),
    ("client", "add", "tester"), ("client", "add", "new", "--ports", "9-3"), ("client", "add", "new", "--ports", "x"),
    ("client", "add", "new", "--tunnels-max", "-1"), ("client", "add", "new", "--frobnicate"), ("frobnicate",)],
    ids=lambda words: " ".join(words))
def test_natrpctl_says_what_is_wrong(ctl_edge, words):
    code, out, err = ctl_edge.ctl(*words)
    assert code == EXIT_REFUSED, f"exit code {code} of {words}: {out}"
    assert len(err.split()) >= 4, f"no sentence on standard error: {err!r}"
    assert ctl_edge.ctl("client", "list")[1].count("tester") == 1
    assert "new" not in ctl_edge.ctl("client", "list")[1]
