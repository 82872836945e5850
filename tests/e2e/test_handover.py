"""SIGUSR2: an edge lets a successor take its place while what flows through it may finish."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import threading
import time

import pytest

from conftest import LOOPS
from net import host_port, split_host_port, wait_until
from processes import Successor, assert_sentence, program
from rig import Setup
from sockets import EchoService, Task, check_echo, connect, is_refused
from test_drain import UnderWay, check_all_served, more_visitors_than_ready_channels

ONE = [Setup(LOOPS[0], "auto")]


def hand_over(edge):
    """Asks for it; the successor, when it is ready."""
    before = len(edge.process.err)
    os.kill(edge.process.pid, signal.SIGUSR2)
    return successor_of(edge, before)


def successor_of(edge, after=0):
    """What the edge's standard error says behind `after`; whose it was may have ended by then."""
    def ready():
        return re.search(r"handed over: .* successor=(\d+)[\s\S]*edge ready", edge.process.err[after:])
    return Successor(int(wait_until(ready, 15, lambda: f"a successor is ready\n{edge.process.describe()}")[1]),
                     edge.process)


def hand_on(successor, edge):
    """The successor's own successor."""
    before = len(edge.process.err)
    successor.signal(signal.SIGUSR2)
    return successor_of(edge, before)


def handed_over(yard):
    """A rig whose edge has handed over while one visitor flows through it: the rig, the two ends, the successor."""
    rig = yard.rig({"drain_seconds": 60})
    visitor, service = rig.pair()
    check_echo(visitor, service)
    successor = yard.closing(hand_over(rig.edge))
    rig.agent.wait_address(2)
    return rig, visitor, service, successor


def installed(yard, folder, **options):
    """An edge, not started yet, of a program file of the test's own."""
    edge = yard.edge(start=False, **options)
    edge.file = shutil.copy(edge.file, folder / "natrp-engine")
    return edge


def replace(file, by):
    """As an installation does it: what runs from the old file goes on."""
    shutil.copy(by, f"{file}.new")
    os.rename(f"{file}.new", file)


def ends_when_started(code):
    """A program that finds nothing wrong in a --check, and ends with `code` when it is started."""
    return f'#!/bin/sh\nfor word; do test "$word" != --check || exit 0; done\nexit {code}\n'


def replace_by_script(file, code):
    with open(f"{file}.new", "w", encoding="ascii") as script:
        script.write(ends_when_started(code))
    os.chmod(f"{file}.new", 0o755)
    os.rename(f"{file}.new", file)


def test_a_successor_has_the_edges_place_while_its_visitors_flow_on(yard):
    rig = yard.rig({"drain_seconds": 60})
    under_way = UnderWay(rig, 32 * 1024 * 1024, 83)
    before = rig.address

    successor = yard.closing(hand_over(rig.edge))
    assert rig.agent.wait_address(2) == before
    for _ in range(5):
        rig.check_echo()
    assert rig.metric("natrp_visitors_total") == 5, "the admin server is the successor's"
    assert rig.edge.get("/healthz") == "ok\n"

    under_way.check_not_over()
    assert rig.edge.process.alive, rig.edge.process.describe()
    under_way.check_completed()
    assert rig.edge.process.wait_exit(15) == 0, rig.edge.process.describe()

    rig.check_echo()
    successor.stop()
    assert is_refused(before)


@pytest.mark.over(ONE)
def test_agents_that_have_just_come_back_from_an_outage_come_to_a_successor_at_once(yard):
    rig = yard.rig()
    rig.edge.process.kill()
    with turning_away(rig.edge.bind):
        wait_until(lambda: max(retries(rig.agent)) > 3000, 60, "the agent has tried so often that it waits for long")
    rig.edge.start()
    rig.agent.wait_address(2)
    said = len(retries(rig.agent))
    successor = yard.closing(hand_over(rig.edge))
    rig.agent.wait_address(3)
    assert max(retries(rig.agent)[said:]) <= 800, rig.agent.process.describe()
    successor.stop()


@contextlib.contextmanager
def turning_away(address):
    """Somebody who listens there, and closes what comes."""
    def listen():
        with contextlib.suppress(OSError):  # the kernel ends the rings of an edge that was killed a moment later
            return socket.create_server(address)
    with wait_until(listen, 5, "the address is free") as listener:
        def turn_away():
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()
        turning = Task(turn_away)
        yield
        listener.shutdown(socket.SHUT_RDWR)
        turning.result()


def retries(agent):
    """How long it has waited before its attempts, in ms."""
    return [int(found) for found in re.findall(r"retry_ms=(\d+)", agent.process.err)] or [0]


def test_a_successor_hands_over_in_its_turn(yard):
    rig = yard.rig({"drain_seconds": 60})
    visitor, service = rig.pair()
    before = rig.address
    first = yard.closing(hand_over(rig.edge))
    assert rig.agent.wait_address(2) == before
    rig.check_echo()
    said = len(rig.edge.process.err)
    first.signal(signal.SIGUSR2)
    second = yard.closing(successor_of(rig.edge, said))
    wait_until(lambda: not first.alive, 15, "the first successor ends")
    assert rig.agent.wait_address(3) == before
    rig.check_echo()
    assert len(os.listdir(f"/proc/{second.pid}/fd")) < 60, "no descriptor is handed on"
    check_echo(visitor, service)  # through the first edge of all
    visitor.close()
    service.close()
    assert rig.edge.process.wait_exit(15) == 0, rig.edge.process.describe()
    assert " error " not in rig.edge.process.err, rig.edge.process.describe()
    second.stop()


def test_visitors_that_wait_have_their_data_channels_before_the_edge_lets_go(yard):
    rig = yard.rig({"drain_seconds": 30})
    with more_visitors_than_ready_channels(rig) as waiting:
        os.kill(rig.edge.process.pid, signal.SIGUSR2)
        rig.edge.process.wait_for("draining")
        time.sleep(0.5)
        assert "handed over" not in rig.edge.process.err
    successor = yard.closing(successor_of(rig.edge))
    check_all_served(rig, waiting, rig.edge.process)
    rig.agent.wait_address(2)
    rig.check_echo()
    successor.stop()


@pytest.mark.over([Setup(io, "auto") for io in LOOPS])
@pytest.mark.parametrize("who", ["an edge that hands over", "an agent that drains"])
def test_a_start_that_is_on_its_way_when_the_session_ends_in_peace_is_served(yard, who):
    rig = yard.rig({"drain_seconds": 30}, {"drain_seconds": 30}, wire=True)
    # All that are dialled for a tunnel, as a later one would not be silent. The control channel was there first.
    wait_until(lambda: rig.metric("natrp_channels_ready") == 2 and len(rig.wire.live()) == 3, 10, "both are ready")
    channels = rig.wire.live()[1:]
    for link in channels:
        link.silence()
    visitor = rig.visit()
    visitor.send(b"first")
    wait_until(lambda: rig.metric("natrp_pairs_live") == 1, 10, "the visitor has its channel")
    assert rig.service.accepted_none(), "its Start has arrived: nothing is on its way"

    if who == "an edge that hands over":
        yard.closing(hand_over(rig.edge))
        rig.agent.wait_address(2)  # the next session has begun
    else:
        rig.agent.process.terminate()
        rig.edge.process.wait_for("session ended")
    for link in channels:
        link.silent = False

    service = rig.accept()
    assert service.receive(5) == b"first"
    check_echo(visitor, service)


def test_no_visitor_is_refused_or_cut_by_handovers(yard):
    edge = yard.edge(drain_seconds=60)
    service = yard.closing(EchoService())
    agent = yard.agent(edge, edge.add_client(), service.local)
    address = agent.address
    ended = threading.Event()

    def visit():
        served = 0
        while not ended.is_set():
            with contextlib.closing(connect(address)) as visitor:
                visitor.send(b"%0100d" % served)
                assert visitor.receive(100) == b"%0100d" % served
            served += 1
        return served

    visitors = [Task(visit) for _ in range(8)]
    try:
        asked = edge.process.pid
        for number in range(4):
            time.sleep(0.3)
            said = len(edge.process.err)
            os.kill(asked, signal.SIGUSR2)
            asked = yard.closing(successor_of(edge, said)).pid
            agent.wait_address(number + 2)
        time.sleep(0.3)
    finally:
        ended.set()
    assert all(visitor.result() > 0 for visitor in visitors)


@pytest.mark.over([Setup(io, "auto") for io in LOOPS])
def test_no_agent_is_refused_by_handovers(yard):
    rig = yard.rig()
    ended = threading.Event()

    def knock():
        times = 0
        while not ended.is_set():
            connect(rig.edge.bind).close()
            times += 1
        return times

    knocking = Task(knock)
    try:
        asked = rig.edge.process.pid
        for number in range(3):
            said = len(rig.edge.process.err)
            os.kill(asked, signal.SIGUSR2)
            asked = yard.closing(successor_of(rig.edge, said)).pid
            rig.agent.wait_address(number + 2)
    finally:
        ended.set()
    assert knocking.result() > 0
    assert "cannot reach" not in rig.agent.process.err, rig.agent.process.describe()


@pytest.mark.over(ONE)
@pytest.mark.parametrize("moves", ["to another port", "to every address", "from every address"])
def test_a_successor_may_listen_for_agents_elsewhere(yard, tmp_path, moves):
    edge = yard.edge(start=False, config=tmp_path / "engine.toml")
    host, port = edge.bind
    here, every = edge.options.pop("bind"), host_port("0.0.0.0", port)
    admin = edge.options.pop("admin")
    before, after = {"to another port": (here, admin), "to every address": (here, every),
                     "from every address": (every, here)}[moves]
    edge.options["config"].write_text(f'bind = "{before}"\n', encoding="ascii")
    edge.start()
    edge.options["config"].write_text(f'bind = "{after}"\n', encoding="ascii")
    successor = yard.closing(hand_over(edge))
    assert f"bind={after}" in edge.process.err, edge.process.describe()
    assert edge.process.wait_exit(15) == 0, edge.process.describe()
    if moves == "to another port":
        with pytest.raises(ConnectionRefusedError):
            connect(split_host_port(here))
        port = split_host_port(admin)[1]
    connect((host, port)).close()
    successor.stop()


@pytest.mark.over(ONE)
def test_who_waits_for_a_tunnel_that_does_not_come_is_reset(yard):
    rig = yard.rig()
    address = rig.address
    with rig.agent.process.frozen():
        successor = yard.closing(hand_over(rig.edge))
        visitor = yard.peer(address)
        visitor.assert_open(1)
        assert visitor.wait_reset(15)
        assert is_refused(address)
        successor.wait_for("its tunnel has not come")
    assert rig.agent.wait_address(2) == address
    rig.check_echo()
    successor.stop()


@pytest.mark.over(ONE)
def test_a_tunnel_that_is_not_back_between_two_handovers_has_its_port_and_its_visitors(yard):
    rig = yard.rig()
    address = rig.address
    with rig.agent.process.frozen():
        first = yard.closing(hand_over(rig.edge))
        waits = yard.peer(address)
        second = yard.closing(hand_on(first, rig.edge))
        wait_until(lambda: not first.alive, 15, "the edge between has nobody and ends")
        waits.assert_open(0.1)
    assert rig.agent.wait_address(2) == address
    check_echo(waits, rig.accept())
    rig.check_echo()
    second.stop()


@pytest.mark.over(ONE)
def test_an_edge_between_that_is_killed_is_not_replaced_while_its_successor_leads(yard):
    rig, visitor, service, first = handed_over(yard)
    rig.pair()
    second = yard.closing(hand_on(first, rig.edge))
    rig.agent.wait_address(3)
    first.signal(signal.SIGKILL)
    wait_until(lambda: not first.alive, 15, "the killed edge is gone")
    time.sleep(1.5)  # a next try would be here
    assert "nobody takes visitors" not in rig.edge.process.err, rig.edge.process.describe()
    check_echo(visitor, service)
    rig.check_echo()
    second.stop()
    time.sleep(1.5)
    assert is_refused(rig.edge.bind)


@pytest.mark.over(ONE)
def test_a_tunnel_never_has_another_ones_visitors(yard):
    """Its port is somebody else's when its agent comes back: who waited for it is reset."""
    edge = yard.edge(grace_seconds=0, public_ports=1)
    service, other = yard.service(), yard.service()
    agent = yard.agent(edge, edge.add_client(), service)
    address = agent.address
    other_token = edge.add_client("other")
    with agent.process.frozen():
        yard.closing(hand_over(edge))
        visitor = yard.peer(address)
        visitor.assert_open(0.3)
        assert yard.agent(edge, other_token, other).address == address
        assert visitor.wait_reset(5)
        assert other.accepted_none()


@pytest.mark.over(ONE)
def test_the_successor_is_the_file_that_is_there_now(yard, tmp_path):
    edge = installed(yard, tmp_path).start()
    replace(edge.file, program("natrp-engine"))
    inode = os.stat(edge.file).st_ino
    successor = yard.closing(hand_over(edge))
    assert successor.file == str(edge.file)
    assert os.stat(f"/proc/{successor.pid}/exe").st_ino == inode
    with open(f"/proc/{successor.pid}/cmdline", "rb") as words:
        assert words.read().decode().split("\0")[1:-1] == edge.process.argv[1:]
    assert edge.process.wait_exit(15) == 0, edge.process.describe()
    successor.stop()


@pytest.mark.over(ONE)
def test_a_link_to_the_version_in_use_is_followed_anew(yard, tmp_path):
    edge = yard.edge(start=False)
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        shutil.copy(edge.file, tmp_path / version / "natrp-engine")
    (tmp_path / "current").symlink_to(tmp_path / "1")
    edge.file = str(tmp_path / "current" / "natrp-engine")
    edge.start()
    (tmp_path / "next").symlink_to(tmp_path / "2")
    (tmp_path / "next").rename(tmp_path / "current")
    successor = yard.closing(hand_over(edge))
    assert successor.file == str(tmp_path / "2" / "natrp-engine")
    successor.stop()


@pytest.mark.over(ONE)
def test_whoever_starts_an_edge_may_ignore_the_ends_of_children(yard):
    rig_edge = yard.edge(prefix=("sh", "-c", 'trap "" CHLD; exec "$@"', "sh"))
    yard.closing(hand_over(rig_edge)).stop()


@pytest.mark.over(ONE)
def test_an_agent_that_does_not_answer_holds_up_nobody_but_its_own(yard):
    rig = yard.rig({"drain_seconds": 60})
    token = rig.edge.add_client("other")
    other_service = yard.service()
    other = yard.agent(rig.edge, token, other_service)
    address = other.address
    with more_visitors_than_ready_channels(rig) as waiting:
        os.kill(rig.edge.process.pid, signal.SIGUSR2)
        rig.edge.process.wait_for("draining")
        visitor = yard.peer(address)  # waits in the backlog
        yard.closing(successor_of(rig.edge))
        assert other.wait_address(2) == address
        check_echo(visitor, yard.closing(other_service.accept()))
    for each in waiting:
        each.close()


@pytest.mark.over(ONE)
def test_an_edge_whose_port_the_kernel_chose_has_no_successor(yard):
    edge = yard.edge(bind="127.0.0.1:0", admin=None)
    os.kill(edge.process.pid, signal.SIGUSR2)
    edge.process.wait_for("no handover: .*--bind")


@pytest.mark.over(ONE)
@pytest.mark.parametrize("how", ["a file that it refuses", "an address that is taken", "no program"])
def test_an_edge_whose_successor_could_not_start_goes_on(yard, tmp_path, how):
    edge = installed(yard, tmp_path, admin=None)
    config = tmp_path / "engine.toml"
    config.write_text("grace_seconds = 50\n", encoding="utf-8")
    edge.options["config"] = config
    edge.start()
    service = yard.service()
    agent = yard.agent(edge, edge.add_client(), service)
    taken = yard.closing(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
    if how == "no program":
        os.unlink(edge.file)
        expected = "no handover"
    elif how == "a file that it refuses":
        config.write_text("grace_seconds = often\n", encoding="utf-8")
        expected = "no handover: .*why=.*(engine.toml.*grace_seconds|grace_seconds.*engine.toml|often)"
    else:
        config.write_text(f'admin = "127.0.0.1:{taken}"\n', encoding="utf-8")
        expected = f"--admin: cannot listen on 127.0.0.1:{taken}: the port is in use by another process"
    os.kill(edge.process.pid, signal.SIGUSR2)
    edge.process.wait_for("no handover")
    assert_sentence(edge.process.err, "no handover: .*this edge goes on")
    assert_sentence(edge.process.err, expected)
    visitor = yard.peer(agent.address)
    check_echo(visitor, yard.closing(service.accept()))
    assert edge.process.alive and agent.addresses() == [agent.address]


@pytest.mark.over(ONE)
@pytest.mark.parametrize("how", ["it is gone", "another one is there"])
def test_an_edge_whose_key_was_taken_away_has_no_successor(yard, how):
    rig = yard.rig()
    for name in ("edge.key", "edge.crt"):
        os.unlink(f"{rig.edge.state}/{name}")
    if how == "another one is there":
        rig.edge.add_client("later")  # makes a key where there is none
    os.kill(rig.edge.process.pid, signal.SIGUSR2)
    rig.edge.process.wait_for("no handover: the state folder has not the key .*this edge goes on")
    time.sleep(0.5)
    rig.check_echo()
    assert len(rig.agent.addresses()) == 1, rig.agent.process.describe()


@pytest.mark.over(ONE)
def test_a_successor_that_ends_at_once_is_started_again_by_an_idle_edge_too(yard, tmp_path):
    edge = installed(yard, tmp_path, drain_seconds=60).start()
    replace_by_script(edge.file, 7)
    os.kill(edge.process.pid, signal.SIGUSR2)
    edge.process.wait_for("the successor ended with code 7: nobody takes visitors")
    said = len(edge.process.err)
    replace(edge.file, program("natrp-engine"))
    successor = yard.closing(successor_of(edge, said))
    assert edge.process.wait_exit(15) == 0, edge.process.describe()
    successor.stop()


@pytest.mark.over(ONE)
def test_a_successor_that_ends_at_once_is_started_again_while_visitors_flow_on(yard, tmp_path):
    edge = installed(yard, tmp_path, drain_seconds=60).start()
    service = yard.service()
    agent = yard.agent(edge, edge.add_client(), service)
    visitor = yard.peer(agent.address)
    reached = yard.closing(service.accept())
    check_echo(visitor, reached)
    replace_by_script(edge.file, 7)
    os.kill(edge.process.pid, signal.SIGUSR2)
    edge.process.wait_for("the successor ended with code 7")
    said = len(edge.process.err)
    check_echo(visitor, reached)
    early = yard.peer(agent.address)  # and waits, as the agent does
    replace(edge.file, program("natrp-engine"))
    yard.closing(successor_of(edge, said))  # the old edge has tried again
    assert agent.wait_address(2) == agent.addresses()[0]
    assert "cannot reach" not in agent.process.err, agent.process.describe()
    check_echo(early, yard.closing(service.accept()))
    with contextlib.closing(connect(agent.address)) as another:
        check_echo(another, yard.closing(service.accept()))
    check_echo(visitor, reached)


@pytest.mark.over(ONE)
def test_who_stops_both_edges_lets_visitors_of_both_finish(yard):
    rig, visitor, service, successor = handed_over(yard)
    another, its_service = rig.pair()
    for pid in (rig.edge.process.pid, successor.pid):  # as a service manager stops a unit
        os.kill(pid, signal.SIGTERM)
    rig.edge.process.wait_for("told to stop: it drains already")
    for _ in range(3):
        time.sleep(0.1)
        check_echo(visitor, service)
        check_echo(another, its_service)
    os.kill(rig.edge.process.pid, signal.SIGTERM)
    rig.edge.process.wait_for("what still flows is cut off")
    assert rig.edge.process.wait_exit(15) == 0, rig.edge.process.describe()
    check_echo(another, its_service)
    successor.stop()


@pytest.mark.over(ONE)
def test_the_old_edge_leaves_the_store_to_its_successor(yard):
    rig, visitor, service, successor = handed_over(yard)
    code, _, err = rig.edge.ctl("client", "set", "tester", "--conns-max", "5")
    assert code == 0, err
    rig.edge.process.wait_for("may have other things than before")
    time.sleep(0.5)  # both would have looked by now
    assert rig.edge.process.err.count("may have other things than before") == 1, rig.edge.process.describe()
    check_echo(visitor, service)
    visitor.close()
    service.close()
    assert rig.edge.process.wait_exit(15) == 0, rig.edge.process.describe()
    rig.check_echo()
    successor.stop()


@pytest.mark.over(ONE)
def test_what_the_rehearsal_finds_wrong_stands_in_the_edges_own_line(yard, tmp_path):
    edge = installed(yard, tmp_path, admin=None)
    config = tmp_path / "engine.toml"
    config.write_text("grace_seconds = 50\n", encoding="utf-8")
    edge.options.update(config=config, log_format="json")
    edge.start()
    config.write_text("grace_secnds = 50\n", encoding="utf-8")
    os.kill(edge.process.pid, signal.SIGUSR2)
    edge.process.wait_for("no handover")
    lines = [json.loads(line) for line in edge.process.err.splitlines()]
    why = [line["why"] for line in lines if line["message"].startswith("no handover")]
    assert len(why) == 1 and f"{config}:1: unknown key 'grace_secnds'" in why[0], edge.process.describe()


@pytest.mark.over(ONE)
def test_sigterm_before_the_edge_has_let_go_is_no_handover(yard):
    rig = yard.rig({"drain_seconds": 30})
    with more_visitors_than_ready_channels(rig) as waiting:
        os.kill(rig.edge.process.pid, signal.SIGUSR2)
        rig.edge.process.wait_for("draining")
        os.kill(rig.edge.process.pid, signal.SIGUSR2)
        rig.edge.process.wait_for("SIGUSR2 changes nothing")
        rig.edge.process.terminate()
        rig.edge.process.wait_for("no handover")
    check_all_served(rig, waiting, rig.edge.process)
    assert "handed over" not in rig.edge.process.err


@pytest.mark.over(ONE)
def test_the_drains_deadline_does_not_end_a_handover(yard):
    rig = yard.rig({"drain_seconds": 1})
    with more_visitors_than_ready_channels(rig) as waiting:
        os.kill(rig.edge.process.pid, signal.SIGUSR2)
        assert rig.edge.process.wait_exit(15) == 0, rig.edge.process.describe()
    successor = yard.closing(successor_of(rig.edge))
    assert all(visitor.wait_ended(15) for visitor in waiting)
    rig.agent.wait_address(2)
    rig.service.forget()
    rig.check_echo()
    successor.stop()


@pytest.mark.over(ONE)
def test_the_service_manager_is_told_whom_to_look_after(yard, manager):
    edge = yard.edge(env={"NOTIFY_SOCKET": manager.path})
    wait_until(manager.told_ready, 10, lambda: f"READY=1; it said {manager.said}")
    manager.said.clear()
    successor = yard.closing(hand_over(edge))
    assert edge.process.wait_exit(15) == 0, edge.process.describe()
    # The successor's line, which was waited for, comes before its word to the manager.
    wait_until(lambda: len(manager.told()) >= 2, 10, lambda: f"both have told the manager; it was told {manager.said}")
    assert sorted(manager.told()) == [f"MAINPID={successor.pid}", "READY=1"]
    assert "STOPPING=1" not in manager.told()
    successor.stop()


@pytest.mark.over(ONE)
def test_an_agent_is_not_asked_for_a_successor(yard):
    rig = yard.rig()
    os.kill(rig.agent.process.pid, signal.SIGUSR2)
    rig.agent.process.wait_for("mean nothing to an agent")
    rig.check_echo()
