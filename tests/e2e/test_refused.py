"""Who may not open a session, or may not have a port, is told so in a sentence."""

import base64
import pathlib
import shutil
import socket
import time

from net import wait_until
from sockets import is_refused

# A certificate authority that has signed nothing in this suite; its key is thrown away.
FOREIGN_CA = """-----BEGIN CERTIFICATE-----
MIIBhzCCAS2gAwIBAgIUbQjvHU1qLgFOFNxQOpH8c3NCgr0wCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNc29tZWJvZHkgZWxzZTAgFw0yNjExMjMxMTEzNDZaGA8yMTI2
MTAzMDExMTM0NlowGDEWMBQGA1UEAwwNc29tZWJvZHkgZWxzZTBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABBtF2r34l61MhX4DdBFrohMEgPvwL8LtI4hbICkf5TKh
HazDd6TFt1MGMxtM87CzZdME/i/ZengbjjxuYvfJf+GjUzBRMB0GA1UdDgQWBBSr
iAsE1xeORGHgACfWu8gdZmvgMDAfBgNVHSMEGDAWgBSriAsE1xeORGHgACfWu8gd
ZmvgMDAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIBlzvP7Im9Ll
k0P5qxE/zaq58BCjqTsESFsz+cAFGCZlAiEA/nVVISBsFyEZY51AgmsWQjH8dnt8
jcKwfczX12OfM24=
-----END CERTIFICATE-----
"""


def changed(text, place):
    """The same text with another letter of the alphabet of base64 at `place`."""
    return text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1:]


def pin_of(token):
    """The pin inside a join token: base64url of 32 random bytes and the 32 bytes of the pin."""
    body = token.removeprefix("ntrp1_")
    raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    assert len(raw) == 64, f"a join token holds 64 bytes, this one {len(raw)}"
    return raw[32:].hex()


def test_a_token_with_another_secret_is_refused(yard):
    edge = yard.edge()
    token = edge.add_client()
    agent = yard.agent(edge, changed(token, len("ntrp1_") + 10), yard.service(), start="unready")
    agent.refused("token")
    assert not agent.addresses()


def test_a_word_that_is_no_token_is_refused(yard):
    edge = yard.edge()
    agent = yard.agent(edge, "not-a-token", yard.service(), start="unready")
    agent.refused("token")


def test_an_edge_with_another_key_than_the_pin_in_the_token_is_refused(yard):
    edge = yard.edge()
    token = edge.add_client()
    agent = yard.agent(edge, changed(token, len(token) - 5), yard.service(), start="unready")
    agent.refused("pin|key|certificate")


def test_a_wrong_pin_is_refused(yard):
    edge = yard.edge()
    token = edge.add_client()
    agent = yard.agent(edge, token, yard.service(), start="unready", pin="sha256:" + "5a" * 32)
    agent.refused("pin")


def test_the_right_pin_is_accepted(yard):
    edge = yard.edge()
    token = edge.add_client()
    yard.agent(edge, token, yard.service(), pin="sha256:" + pin_of(token))


def test_an_edge_that_another_authority_did_not_sign_is_refused(yard):
    edge = yard.edge()
    token = edge.add_client()
    authority = yard.path("ca.pem")
    authority.write_text(FOREIGN_CA)
    agent = yard.agent(edge, token, yard.service(), start="unready", ca=authority)
    agent.refused("certificate|authority|CA")
    assert edge.process.alive


def test_a_token_file_is_as_good_as_a_token(yard):
    edge = yard.edge()
    file = yard.path("token")
    file.write_text(edge.add_client() + "\n")
    service = yard.service()
    file.chmod(0o640)
    agent = yard.agent(edge, None, service, token_file=file)
    yard.peer(agent.address)
    yard.closing(service.accept())
    assert "may read the file of the token" not in agent.process.err
    agent.process.kill()
    file.chmod(0o644)
    open_to_all = yard.agent(edge, None, service, token_file=file)
    open_to_all.process.wait_for("everybody on this host may read the file of the token")


# --- ports -----------------------------------------------------------------------------------------------

def ports_of(edge):
    first, last = edge.options["ports"].split("-")
    return list(range(int(first), int(last) + 1))


def test_a_wanted_port_is_given(yard):
    edge = yard.edge()
    wanted = ports_of(edge)[7]
    agent = yard.agent(edge, edge.add_client(), yard.service(), remote_port=wanted)
    assert agent.address == (edge.options["public_address"], wanted)


def test_a_wanted_port_held_by_another_process_is_named_and_taken_when_it_is_free(yard):
    edge = yard.edge()
    wanted = ports_of(edge)[3]
    service = yard.service()
    with socket.create_server((edge.options["public_address"], wanted)):
        agent = yard.agent(edge, edge.add_client(), service, start="unready", remote_port=wanted)
        agent.process.wait_for(rf"(?i)\b{wanted}\b.*in use|in use.*\b{wanted}\b")
        time.sleep(0.5)
        assert agent.process.alive, agent.process.describe()
        assert not agent.addresses()
    assert agent.wait_address(seconds=60) == (edge.options["public_address"], wanted)
    yard.peer(agent.address)
    yard.closing(service.accept())


def test_a_wanted_port_of_another_client_is_not_given(yard):
    rig = yard.rig()
    _, port = rig.address
    other = yard.agent(rig.edge, rig.edge.add_client("other"), yard.service(), start="unready", remote_port=port)
    other.process.wait_for(rf"\b{port}\b")
    time.sleep(0.5)
    assert not other.addresses()
    rig.check_echo()


def test_any_port_passes_over_one_that_another_process_holds(yard):
    for place in (0, 1):
        edge = yard.edge(public_ports=2)
        ports = ports_of(edge)
        with socket.create_server((edge.options["public_address"], ports.pop(place))):
            agent = yard.agent(edge, edge.add_client(), yard.service())
            assert agent.address[1] == ports[0]


def test_an_exhausted_range_is_said_in_a_sentence(yard):
    rig = yard.rig(edge_options={"public_ports": 1})
    other = yard.agent(rig.edge, rig.edge.add_client("other"), yard.service(), start="unready")
    said = other.process.wait_for(r"(?i)no .*port|port.*(exhausted|taken|left|in use)|range", seconds=20)
    assert len(said.string.split()) > 5
    assert not other.addresses()
    rig.check_echo()


def test_the_ports_of_a_client_bound_what_it_may_have(yard):
    edge = yard.edge()
    ports = ports_of(edge)
    token = edge.add_client("tester", "--ports", f"{ports[5]}-{ports[6]}")
    outside = yard.agent(edge, token, yard.service(), start="unready", remote_port=ports[0])
    outside.refused(rf"may not have port {ports[0]}\b")
    assert not outside.addresses()
    inside = yard.agent(edge, token, yard.service())
    assert inside.address[1] in (ports[5], ports[6])


def test_a_client_without_a_port_of_the_edges_is_told_in_a_short_sentence_and_waits_for_its_operator(yard):
    edge = yard.edge()
    own = ports_of(edge)
    many = [port for port in range(10001, 50000, 2) if port not in own]
    token = edge.add_client("many", "--ports", ",".join(map(str, many)))
    agent = yard.agent(edge, token, yard.service(), start="unready")
    agent.process.wait_for(rf"(?i)tunnel refused for now: .*10001,10003,[^ ]* \({len(many)} ports\)")
    edge.process.wait_for("its agents will be refused client=many")
    edge.ctl("client", "set", "many", "--ports", "any")
    agent.wait_address()


def test_the_tunnels_of_a_client_are_counted(yard):
    edge = yard.edge()
    token = edge.add_client("tester", "--tunnels-max", "1")
    first = yard.agent(edge, token, yard.service(), name="first")
    second = yard.agent(edge, token, yard.service(), start="unready", name="second")
    second.process.wait_for(r"(?i)tunnel refused for now: .*may have 1 tunnel at a time, and other agents")
    time.sleep(0.5)
    assert not second.addresses()
    first.process.kill()  # its host is gone, say: what it held is the next one's
    second.wait_address()


def test_an_agent_that_is_told_to_retry_outlives_every_refusal(yard):
    rig = yard.rig(agent_options={"on_refusal": "retry"})
    before = rig.address
    state = pathlib.Path(rig.edge.options["state"])
    saved = yard.path("saved")

    def edge_with(change, said):
        """The edge anew, after `change`; the agent says so, and stays."""
        rig.edge.process.stop()
        count = len(rig.agent.process.err)
        change()
        rig.edge.start()
        wait_until(lambda: said in rig.agent.process.err[count:], 30, rig.agent.process.describe)
        assert rig.agent.process.alive

    edge_with(lambda: shutil.move(state, saved), "shows another key")

    def put_back_the_key_alone():
        shutil.rmtree(state)
        state.mkdir(mode=0o700)
        for name in ("edge.key", "edge.crt"):
            shutil.copy2(saved / name, state / name)

    edge_with(put_back_the_key_alone, "does not know the token")

    def put_back_all():
        shutil.rmtree(state)
        shutil.move(saved, state)

    edge_with(put_back_all, "session established")
    assert rig.agent.wait_address(2) == before
    rig.check_echo()


def test_a_refusal_for_now_is_told_once_and_not_each_time_it_is_asked_for(yard):
    rig = yard.rig({"log_level": "debug"})
    taken = rig.address[1]
    token = rig.edge.add_client("other")
    other = yard.agent(rig.edge, token, yard.service(), start="unready", remote_port=taken, log_level="debug")
    for process, said in ((other.process, "tunnel refused for now"), (rig.edge.process, "tunnel refused")):
        wait_until(lambda err=process, text=said: err.err.count(text) >= 2, 10, "it asks again")
        told = [line for line in process.err.splitlines() if said in line and " debug " not in line]
        assert len(told) == 1, process.describe()


def test_an_agent_with_more_tunnels_than_its_client_may_have_is_told_so_for_good(yard):
    edge = yard.edge()
    token = edge.add_client("tester", "--tunnels-max", "1")
    file = yard.path("agent.toml")
    file.write_text("".join(f'[[tunnel]]\nname = "{name}"\nlocal = "{yard.service().local}"\n'
                            for name in ("first", "second")))
    agent = yard.agent(edge, token, "", start=False)
    agent.options = {"server": edge.server, "token": token, "config": file, **yard.setup.flags}
    agent.start()
    agent.process.wait_for(r"tunnel refused: .*may have 1 tunnel at a time; .*tunnel=second")
    assert agent.process.alive and len(agent.addresses()) == 1
    assert agent.process.out.rstrip().endswith("(first)"), "of several tunnels each is named"


def test_the_connections_of_a_client_are_counted(yard):
    rig = yard.rig(client=("--conns-max", "3"))
    kept = [rig.pair() for _ in range(3)]
    assert is_refused(rig.address), "a fourth visitor was let in"
    rig.edge.process.wait_for(r"visitors were refused: their client has as many as it may .*conns_max=3 visitors=1")
    for visitor, service in kept:
        visitor.send(b"x")
        assert service.receive(1) == b"x"
    kept[0][0].close()
    kept[0][1].close()
    wait_until(lambda: rig.metric("natrp_pairs_live") == 2, 10, "the edge let go of a closed pair")
    rig.check_echo()
