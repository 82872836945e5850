"""The programs as daemons: what they say, to whom, and on which kernel."""

import json
import os
import pathlib
import re
import resource
import signal
import socket
import time

import pytest

from net import split_host_port, wait_until
from processes import Process, assert_sentence, flags, program
from rig import Setup, without_io_uring

AUTO = [Setup("auto", "auto")]


def test_both_daemons_tell_the_service_manager_when_they_are_ready(yard, manager):
    environment = {"NOTIFY_SOCKET": manager.path}
    edge = yard.edge(env=environment)
    wait_until(manager.told_ready, 10, lambda: f"READY=1 from the edge; it said {manager.said}")
    manager.said.clear()
    agent = yard.agent(edge, edge.add_client(), yard.service(), env=environment)
    wait_until(manager.told_ready, 10, lambda: f"READY=1 from the agent; it said {manager.said}")
    status = "STATUS=public address: {}:{}".format(*agent.address)
    wait_until(lambda: status in manager.told(), 10, lambda: f"{status}; it said {manager.said}")


@pytest.mark.over(AUTO)
def test_an_agent_whose_edge_is_away_is_ready_all_the_same(yard, manager):
    edge = yard.edge(start=False)
    agent = yard.agent(edge, edge.add_client(), "127.0.0.1:9", start="unready", env={"NOTIFY_SOCKET": manager.path})
    wait_until(manager.told_ready, 10, lambda: f"READY=1 from the agent; it said {manager.said}")
    wait_until(lambda: any("trying again" in line for line in manager.told()), 10, "a status that says so")
    assert agent.process.alive


def test_an_edge_is_not_ready_before_it_listens(yard, manager):
    edge = yard.edge(start=False, env={"NOTIFY_SOCKET": manager.path}).start(ready=False)
    wait_until(manager.told_ready, 15, "READY=1 from the edge")
    socket.create_connection(edge.bind, 5).close()


@pytest.mark.parametrize("role", ["edge", "agent"])
def test_a_signal_that_means_nothing_ends_nobody(yard, role):
    rig = yard.rig()
    process = getattr(rig, role).process
    os.kill(process.pid, signal.SIGUSR1)
    process.wait_for("SIGUSR1")
    os.kill(process.pid, signal.SIGHUP)
    process.wait_for("SIGHUP reloads nothing")
    rig.check_echo()


@pytest.mark.over(AUTO)
@pytest.mark.parametrize("name, words", [("natrp-engine", ["--config"]),
                                         ("natrp", ["--server", "127.0.0.1:9", "--local", "h:1", "--token-file"])])
def test_a_file_that_never_ends_can_be_interrupted(yard, name, words):
    pipe = yard.path("pipe")
    os.mkfifo(pipe)
    process = Process(name, [program(name), *words, pipe, "--check"], yard.directory)
    try:
        time.sleep(0.3)
        assert process.alive
        process.terminate()
        assert process.wait_exit(5) == -signal.SIGTERM
    finally:
        process.kill()


@pytest.mark.over(AUTO)
def test_an_edge_that_has_lost_its_store_says_so(yard):
    edge = yard.edge()
    edge.add_client()
    assert "no natrp.db" not in edge.process.err, "a new folder has lost nothing"
    edge.process.stop()
    for file in pathlib.Path(edge.options["state"]).glob("natrp.db*"):
        file.unlink()
    edge.start()
    assert_sentence(edge.process.err, "has a key and no natrp.db.*backup")


def test_the_edge_says_when_it_is_ready_and_where(yard):
    edge = yard.edge()
    assert re.search(rf"edge ready.*{re.escape(edge.server)}", edge.process.err), edge.process.describe()
    assert edge.process.out == "" or "edge ready" not in edge.process.out


@pytest.mark.over(AUTO)
# FDSize: places in the kernel's table of descriptors. A table that grows later stops the worker that needs it.
@pytest.mark.parametrize("limit", [1_000, None])
def test_descriptors_have_their_places_before_they_are_needed(yard, limit):
    prefix = ["prlimit", f"--nofile={limit}:{limit}", "--"] if limit else []
    places = min(limit or resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65_536)
    edge = yard.edge(prefix=prefix)
    agent = yard.agent(edge, edge.add_client(), yard.service(), prefix=prefix)
    for process in (edge.process, agent.process):
        with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
            size = int(re.search(r"^FDSize:\s*(\d+)", status.read(), re.MULTILINE)[1])
        assert size >= places, process.describe()
        assert len(os.listdir(f"/proc/{process.pid}/fd")) < 100  # and none is taken


@pytest.mark.over(AUTO)
def test_the_edge_logs_its_pin_as_an_agent_takes_it(yard):
    edge = yard.edge()
    pin = re.search(r"edge ready.*\bpin=(sha256:[0-9a-f]{64})\b", edge.process.err)
    assert pin, edge.process.describe()
    token = edge.add_client()
    yard.agent(edge, token, yard.service(), pin=pin[1])
    wrong = yard.agent(edge, token, "127.0.0.1:9", start="unready", name="other",
                       pin=pin[1][:-1] + ("0" if pin[1][-1] != "0" else "1"))
    wrong.refused("another key than --pin")
    edge.process.wait_for("an agent does not take this edge for its own")


def test_the_agent_prints_its_public_address_alone_on_standard_output(yard):
    rig = yard.rig()
    assert rig.agent.process.out.splitlines() == ["public address: {}:{}".format(*rig.address)]
    assert "session established" in rig.agent.process.err


@pytest.mark.over(AUTO)
def test_a_new_edge_logs_the_command_that_adds_a_client(yard):
    edge = yard.edge()
    edge.process.wait_for("natrpctl .*client add")


@pytest.mark.over(AUTO)
def test_tokens_are_never_logged(yard):
    rig = yard.rig({"log_level": "debug"}, {"log_level": "debug"})
    rig.check_echo()
    secret = rig.token.removeprefix("ntrp1_")[:30]
    for process in (rig.edge.process, rig.agent.process):
        assert secret not in process.err + process.out


@pytest.mark.over(AUTO)
def test_json_logs_are_one_object_per_line(yard):
    rig = yard.rig({"log_format": "json"}, {"log_format": "json"})
    rig.check_echo()
    rig.agent.process.stop()
    rig.edge.process.stop()
    for process, sentence in ((rig.edge.process, "edge ready"), (rig.agent.process, "session established")):
        lines = process.err.splitlines()
        for line in lines:
            assert isinstance(json.loads(line), dict), line
        assert any(sentence in line for line in lines)
    ready = next(line for line in rig.edge.process.err.splitlines() if "edge ready" in line)
    assert rig.edge.server in json.loads(ready).values(), ready


@pytest.mark.over(AUTO)
def test_a_log_level_keeps_quieter_lines_out(yard, manager):
    edge = yard.edge(start=False, log_level="error", env={"NOTIFY_SOCKET": manager.path}).start(ready=False)
    wait_until(manager.told_ready, 15, "READY=1 from the edge")
    edge.process.stop()
    assert edge.process.err == "", edge.process.err


@pytest.mark.over(AUTO)
def test_the_flags_of_the_original_client_are_accepted(yard):
    edge = yard.edge()
    service = yard.service()
    token = edge.add_client()
    process = Process("natrp", [program("natrp"), f"-local={service.local}", f"-server={edge.server}",
                                f"-token={token}"], yard.directory)
    try:
        found = process.wait_for(r"^public address: (\S+):(\d+)$", stream="out")
        visitor = yard.peer((found[1], int(found[2])))
        visitor.send(b"as ever")
        reached = service.accept()
        assert reached.receive(7) == b"as ever"
        visitor.close()
        reached.close()
    finally:
        process.stop()


# --- a kernel without io_uring ---------------------------------------------------------------------------------

@pytest.mark.over(AUTO)
@pytest.mark.parametrize("error", ["EPERM", "ENOSYS", "EPERM:enter", "EPERM:register"])
def test_without_io_uring_auto_takes_epoll_and_logs_the_reason_once(yard, error):
    prefix = without_io_uring(error)
    edge = yard.edge(prefix=prefix)
    service = yard.service()
    agent = yard.agent(edge, edge.add_client(), service, prefix=prefix)
    visitor = yard.peer(agent.address)
    visitor.send(b"hello")
    assert yard.closing(service.accept()).receive(5) == b"hello"
    time.sleep(0.2)
    for process in (edge.process, agent.process):
        # The line that says which loop serves has a path of this test in it.
        reasons = [line for line in process.err.splitlines()
                   if "epoll" in line and "uring" in line and "edge ready" not in line]
        assert len(reasons) == 1, f"{len(reasons)} lines give the reason\n{process.describe()}"


@pytest.mark.over(AUTO)
@pytest.mark.parametrize("error", ["EPERM", "ENOSYS", "EPERM:enter", "EPERM:register"])
def test_without_io_uring_an_explicit_wish_for_it_is_refused(yard, error):
    options = yard.edge_options(io="uring")
    process = Process("natrp-engine", [program("natrp-engine"), *flags(options)], yard.directory,
                      prefix=without_io_uring(error))
    try:
        assert process.wait_exit(15) == 2, process.describe()
    finally:
        process.kill()
    assert_sentence(process.err, "uring")
    socket.create_server(split_host_port(options["bind"])).close()  # nobody listens


def test_edge_and_agent_need_not_wait_in_the_same_way(yard, setup):
    other = "epoll" if setup.io == "uring" else "auto"
    rig = yard.rig(agent_options={"io": other, "pump": "copy"}, edge_options={"pump": "splice"})
    rig.check_echo()
