"""SIGTERM finishes what flows, takes nothing new and exits 0; a second SIGTERM does not wait."""

import contextlib
import os
import signal
import socket
import threading
import time

import pytest

from conftest import LOOPS
from net import split_host_port, wait_until
from processes import CRASHES, EXIT_REFUSED
from rig import Setup
from sockets import FIN, RESET, Content, EchoService, Task, check_echo, check_received, connect, is_refused

ONE = [Setup(LOOPS[0], "auto")]


class UnderWay:
    """A transfer that has begun, and a pair that talks."""

    def __init__(self, rig, size, seed):
        self._content = Content(size, seed)
        self._visitor, self._service = rig.pair(receive_buffer=64 * 1024)
        self._talker, self._listener = rig.pair()
        check_echo(self._talker, self._listener)
        self._sender = Task(self._service.send_content, self._content, finish=True)
        self._visitor.receive(1)

    def check_not_over(self):
        assert not self._sender.done, "the transfer was over before anything was asked: nothing was measured"

    def check_completed(self):
        """Both directions of the pair go on to their ends, and the transfer arrives whole."""
        check_echo(self._talker, self._listener)
        self._talker.finish()
        assert self._listener.receive_to_end(15).ending == FIN
        self._listener.finish()
        assert self._talker.receive_to_end(15).ending == FIN
        check_received(self._visitor.receive_to_end(), self._content.after(1), FIN, "the visitor")
        self._sender.result()
        self._visitor.finish()
        self._service.receive_to_end(15)


def drain(rig, process):
    """A transfer is under way when `process` is asked to end: new visitors get nowhere, the transfer is completed."""
    under_way = UnderWay(rig, 64 * 1024 * 1024, 81)
    address = rig.address

    process.terminate()
    wait_until(lambda: is_refused(address, 1), 10, "new visitors are refused during the drain")
    rig.service.forget()
    under_way.check_not_over()
    assert process.alive, process.describe()
    assert is_refused(address, 1) and rig.service.accepted_none(), "a visitor was let in during the drain"

    under_way.check_completed()
    assert process.wait_exit(15) == 0, process.describe()


def test_a_draining_edge_finishes_its_visitors_and_exits_with_0(yard):
    rig = yard.rig(edge_options={"drain_seconds": 60})
    drain(rig, rig.edge.process)
    assert rig.agent.process.alive, rig.agent.process.describe()


def test_a_draining_agent_finishes_its_visitors_and_exits_with_0(yard):
    rig = yard.rig(agent_options={"drain_seconds": 60})
    drain(rig, rig.agent.process)
    assert rig.edge.process.alive, rig.edge.process.describe()
    rig.agent.start()
    rig.check_echo()


def one_that_flows(yard, role, drain_seconds):
    """The process to be stopped, and a pair through it."""
    rig = yard.rig({"drain_seconds": drain_seconds}, {"drain_seconds": drain_seconds})
    visitor, service = rig.pair()
    check_echo(visitor, service)
    return getattr(rig, role).process, visitor, service


@pytest.mark.parametrize("role", ["edge", "agent"])
def test_a_second_sigterm_ends_at_once(yard, role):
    process, visitor, service = one_that_flows(yard, role, 60)
    process.terminate()
    process.wait_for("draining")  # two signals that are not taken yet are one
    time.sleep(0.7)
    assert process.alive, f"it did not wait for its visitor\n{process.describe()}"
    check_echo(visitor, service)
    process.terminate()
    code = process.wait_exit(5)
    assert code >= 0 or -code not in CRASHES, process.describe()
    assert visitor.wait_ended(15) and service.wait_ended(15)


@pytest.mark.over(ONE)
@pytest.mark.parametrize("role", ["edge", "agent"])
def test_two_signals_at_once_are_one(yard, role):
    """timeout(1) tells its child and its process group; who presses Ctrl-C tells a wrapper, which passes it on."""
    process, visitor, service = one_that_flows(yard, role, 60)
    with process.frozen():
        process.terminate()
        os.kill(process.pid, signal.SIGINT)
    process.wait_for("draining")
    time.sleep(0.7)
    check_echo(visitor, service)
    visitor.close()
    service.close()
    assert process.wait_exit(15) == 0, process.describe()


@pytest.mark.parametrize("role", ["edge", "agent"])
def test_a_drain_without_visitors_is_over_at_once(yard, role):
    rig = yard.rig({"drain_seconds": 60}, {"drain_seconds": 60})
    rig.check_echo()
    wait_until(lambda: rig.metric("natrp_pairs_live") == 0, 10, "the visitor is gone")
    process = getattr(rig, role).process
    process.terminate()
    assert process.wait_exit(10) == 0, process.describe()


@pytest.mark.over(ONE)
@pytest.mark.parametrize("role", ["edge", "agent"])
def test_the_last_line_of_a_drain_says_that_it_is_over(yard, role):
    rig = yard.rig()
    process = getattr(rig, role).process
    process.terminate()
    assert process.wait_exit(10) == 0, process.describe()
    lines = process.err.splitlines()
    assert f"{role} stopped" in lines[-1], process.describe()
    assert role == "agent" or any("session ended" in line for line in lines)


@pytest.mark.parametrize("role", ["edge", "agent"])
def test_a_drain_waits_for_the_bytes_before_a_reset(yard, role):
    rig = yard.rig({"drain_seconds": 30}, {"drain_seconds": 30})
    visitor, service = rig.pair(receive_buffer=16 * 1024)
    content = Content(1_000_000, 47)
    service.send_content(content)
    service.wait_sent()
    service.reset()
    time.sleep(0.5)
    process = getattr(rig, role).process
    process.terminate()
    time.sleep(0.5)
    check_received(visitor.receive_to_end(15), content, RESET, "the visitor")
    assert process.wait_exit(15) == 0, process.describe()


@contextlib.contextmanager
def more_visitors_than_ready_channels(rig):
    """Visitors of an agent that is frozen meanwhile."""
    rig.check_echo()
    with rig.agent.process.frozen():
        before = rig.metric("natrp_visitors_total")
        visitors = [connect(rig.address) for _ in range(80)]
        wait_until(lambda: rig.metric("natrp_visitors_total") == before + 80, 10, "all visitors are in")
        yield visitors


def check_all_served(rig, visitors, process):
    """Each has its answer, and then the draining process ends."""
    for number, visitor in enumerate(visitors):
        visitor.send(b"%03d" % number)
        visitor.finish()
    for _ in visitors:
        with contextlib.closing(rig.service.accept()) as served:
            served.send(served.receive(3))
            served.finish()
            assert served.receive_to_end(15).ending == FIN
    for number, visitor in enumerate(visitors):
        assert visitor.receive(3) == b"%03d" % number
        visitor.close()
    assert process.wait_exit(15) == 0, process.describe()


def test_a_draining_edge_serves_those_who_wait_for_a_data_channel(yard):
    rig = yard.rig({"drain_seconds": 30})
    with more_visitors_than_ready_channels(rig) as waiting:
        rig.edge.process.terminate()
        rig.edge.process.wait_for("draining")
        time.sleep(0.3)  # the line comes first
    check_all_served(rig, waiting, rig.edge.process)


def test_a_draining_edge_serves_those_who_had_connected_before_it_took_them(yard):
    rig = yard.rig({"drain_seconds": 30})
    rig.check_echo()
    with rig.edge.process.frozen():
        visitors = [connect(rig.address) for _ in range(100)]  # with the kernel's backlog
        rig.edge.process.terminate()
    check_all_served(rig, visitors, rig.edge.process)


def test_a_draining_agent_serves_those_who_were_given_its_data_channels(yard):
    rig = yard.rig(agent_options={"drain_seconds": 30})
    rig.check_echo()
    wait_until(lambda: rig.metric("natrp_channels_ready") >= 2, 10, "two channels are ready")
    before = rig.metric("natrp_visitors_total")
    with rig.agent.process.frozen():
        visitors = [connect(rig.address) for _ in range(2)]
        wait_until(lambda: rig.metric("natrp_visitors_total") == before + 2, 10, "all visitors are in")
        rig.agent.process.terminate()
    check_all_served(rig, visitors, rig.agent.process)


def test_a_draining_agent_serves_those_who_wait_for_a_data_channel(yard):
    rig = yard.rig(agent_options={"drain_seconds": 30})
    with more_visitors_than_ready_channels(rig) as waiting:
        rig.agent.process.terminate()
    check_all_served(rig, waiting, rig.agent.process)


def test_a_draining_agent_serves_those_who_had_connected_before_the_edge_took_them(yard):
    rig = yard.rig(agent_options={"drain_seconds": 30})
    rig.check_echo()
    with rig.edge.process.frozen():
        visitors = [connect(rig.address) for _ in range(100)]  # with the kernel's backlog
        rig.agent.process.terminate()
        rig.agent.process.wait_for("draining")
    check_all_served(rig, visitors, rig.agent.process)


@pytest.mark.over(ONE)
def test_a_draining_agents_tunnel_is_anothers_and_who_waited_for_it_is_served(yard):
    rig = yard.rig(agent_options={"drain_seconds": 30})
    visitor, service = rig.pair()
    with more_visitors_than_ready_channels(rig) as waiting:
        rig.agent.process.terminate()
    rig.edge.process.wait_for("an agent is about to stop")  # its tunnel is nobody's from then on
    heir = yard.agent(rig.edge, rig.token, rig.service)
    assert heir.address == rig.address
    check_echo(visitor, service)
    visitor.close()
    service.close()
    check_all_served(rig, waiting, rig.agent.process)


@pytest.mark.over([Setup(io, "auto") for io in LOOPS])
def test_an_agent_that_is_replaced_finishes_what_flows_and_exits_with_2(yard):
    rig = yard.rig(agent_options={"drain_seconds": 30})
    under_way = UnderWay(rig, 64 * 1024 * 1024, 87)
    heir = yard.agent(rig.edge, rig.token, rig.service, on_conflict="replace")
    assert heir.address == rig.address
    rig.agent.process.wait_for("took tunnel 'default' over")
    rig.check_echo()
    under_way.check_not_over()
    assert rig.agent.process.alive, rig.agent.process.describe()
    under_way.check_completed()
    assert rig.agent.process.wait_exit(15) == EXIT_REFUSED, rig.agent.process.describe()


@pytest.mark.over(ONE)
@pytest.mark.parametrize("what", [("client", "remove"), ("token", "rotate")], ids=lambda words: " ".join(words))
def test_an_agent_whose_client_may_not_connect_any_more_finishes_what_flows(yard, what):
    rig = yard.rig(agent_options={"drain_seconds": 30})
    visitor, service = rig.pair()
    check_echo(visitor, service)
    assert rig.edge.ctl(*what, "tester")[0] == 0
    rig.agent.process.wait_for("draining")
    rig.agent.process.terminate()  # the first that anybody has said
    rig.agent.process.wait_for("it stops already")
    check_echo(visitor, service)
    visitor.finish()
    assert service.receive_to_end(15).ending == FIN
    service.finish()
    assert visitor.receive_to_end(15).ending == FIN
    assert rig.agent.process.wait_exit(15) == EXIT_REFUSED, rig.agent.process.describe()


@pytest.mark.over(ONE)
def test_visitors_who_come_while_agents_replace_each_other_are_all_served(yard):
    rig = yard.rig()
    echo = yard.closing(EchoService())
    agents = [yard.agent(rig.edge, rig.edge.add_client("replaced"), echo)]
    address = agents[0].address
    ended = threading.Event()
    served, resets = [], []

    def visits():
        while not ended.is_set():
            try:
                with contextlib.closing(connect(address)) as visitor:
                    visitor.sock.sendall(b"visitor")
                    assert visitor.sock.recv(7) == b"visitor"
                    served.append(visitor)
            except ConnectionRefusedError:
                continue  # between two listeners
            except (ConnectionResetError, BrokenPipeError) as reset:
                resets.append(reset)

    visiting = [Task(visits) for _ in range(4)]
    try:
        for _ in range(3):
            time.sleep(0.3)
            agents.append(yard.agent(rig.edge, agents[-1].options["token"], echo, on_conflict="replace"))
        wait_until(lambda: len(served) > 100, 15, lambda: f"so many are served: {len(served)}")
    finally:
        ended.set()
    for task in visiting:
        task.result()
    # The kernel resets whose handshake ends between the last accept(2) and the end of the listener.
    assert len(resets) <= len(agents) - 1, resets
    for agent in agents[:-1]:
        assert agent.process.wait_exit(15) == EXIT_REFUSED, agent.process.describe()


@pytest.mark.over(ONE)
def test_an_agent_stops_though_its_edge_does_not_answer(yard):
    rig = yard.rig(agent_options={"drain_seconds": 30})
    rig.check_echo()
    wait_until(lambda: rig.metric("natrp_pairs_live") == 0, 10, "the visitor is gone")
    with rig.edge.process.frozen():
        rig.agent.process.terminate()
        assert rig.agent.process.wait_exit(10) == 0, rig.agent.process.describe()


@pytest.mark.over(ONE)
def test_a_draining_edge_gives_up_who_waits_for_a_data_channel_in_vain(yard):
    rig = yard.rig({"drain_seconds": 60})
    with more_visitors_than_ready_channels(rig) as waiting:
        rig.edge.process.terminate()
        wait_until(lambda: rig.metric("natrp_rendezvous_timeouts_total") > 0, 20, "one was given up after its 10 s")
        rig.edge.process.terminate()  # those that took a ready channel would flow on
        assert rig.edge.process.wait_exit(15) == 0, rig.edge.process.describe()
    for visitor in waiting:
        visitor.close()


@pytest.mark.over(ONE)
@pytest.mark.parametrize("role", ["edge", "agent"])
def test_a_drain_waits_no_longer_than_it_was_told(yard, role):
    process, visitor, service = one_that_flows(yard, role, 1)
    process.terminate()
    assert process.wait_exit(12) == 0, process.describe()
    assert visitor.wait_ended(15) and service.wait_ended(15)


@pytest.mark.over(ONE)
def test_a_drained_edge_is_succeeded_by_one_with_the_same_port(yard):
    rig = yard.rig(edge_options={"drain_seconds": 30})
    visitor, service = rig.pair()
    check_echo(visitor, service)
    before = rig.address
    old = rig.edge.process
    old.terminate()
    wait_until(lambda: is_refused(before, 1), 10, "the draining edge let go of its public port")
    rig.service.forget()  # the first who asked may have come in before the signal: nobody else would end its pair
    check_echo(visitor, service)
    visitor.close()
    service.close()
    assert old.wait_exit(15) == 0
    rig.edge.start()
    assert rig.agent.wait_address(2) == before
    rig.check_echo()


def test_a_request_to_the_admin_server_that_never_ends_does_not_keep_the_edge(yard):
    rig = yard.rig(edge_options={"drain_seconds": 1})
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(split_host_port(rig.edge.options["admin"])))
                for _ in range(2)]
        ended = threading.Event()

        def drip():
            for conn in slow:
                conn.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
            with contextlib.suppress(OSError):
                while not ended.wait(0.2):
                    for conn in slow:
                        conn.sendall(b"x")

        dripping = Task(drip)
        time.sleep(0.5)
        rig.edge.process.terminate()
        try:
            assert rig.edge.process.wait_exit(10) == 0, rig.edge.process.describe()
        finally:
            ended.set()
            dripping.result()
