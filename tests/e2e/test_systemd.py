"""The units of packaging/ under a real systemd, installed as the README says: what docs/operations.md claims of them.

Not over setups: the files as they are installed leave io and pump to the programs.
"""

import contextlib
import hashlib
import os
import re
import threading

import pytest

from net import wait_until
from processes import REPOSITORY, assert_sentence
from sockets import CHUNK, FIN, RESET, Service, Task, check_echo
from systemd_host import AGENT, EDGE, CannotBoot, HostRig, SystemdHost
from test_drain import UnderWay
from test_handover import ends_when_started
from without_io_uring import io_uring_error

BULK = 64 * 1024 * 1024
UNITS = [EDGE, AGENT]
NO_CAPABILITY = "0000000000000000"
WRONG_FILE = r"engine\.toml:\d+: grace_seconds: expected"
# What systemd says of a process that crashed, and of one whose word it does not take.
WRONG = re.compile(r".*code=(?:dumped|killed), status=\d+/(?:SEGV|ABRT|BUS|ILL|FPE|TRAP|SYS|PIPE).*"
                   r"|.*reception only permitted for.*")


@pytest.fixture(scope="module")
def booted(tmp_path_factory):
    try:
        host = SystemdHost(tmp_path_factory.mktemp("systemd"))
    except CannotBoot as reason:
        pytest.skip(f"no systemd of its own: {reason}")
    try:
        yield host
    finally:
        host.close()


@pytest.fixture
def host(booted, judgement):
    """The host with edge and agent as they were installed."""
    booted.as_installed()
    said = len(booted.journal.out)
    yield booted
    wrong = WRONG.search(booted.journal.out, said)
    assert not wrong, wrong[0]


@pytest.fixture
def rig(host):
    made = HostRig(host)
    yield made
    made.close()


def reload(host):
    """`systemctl reload`, until systemd looks after the successor; its process id."""
    before = host.main_pid(EDGE)
    host.run(f"systemctl reload {EDGE}")
    return wait_until(lambda: host.main_pid(EDGE) not in (0, before) and host.main_pid(EDGE), 15,
                      lambda: f"the successor is the unit's main process{host.last_words()}")


def spoil(host):
    """A wrong value in the edge's file."""
    host.run("sed -i 's/^#grace_seconds = .*/grace_seconds = \"often\"/' /etc/natrp/engine.toml")


def start_and_fail(host, unit, code):
    """The unit is not started again after this exit code: it has failed, at the first attempt."""
    host.attempt(f"systemctl start {unit}")
    wait_until(lambda: host.show(unit, "ActiveState") == "failed", 15,
               lambda: f"{unit} has failed{host.last_words()}")
    assert host.show(unit, "ExecMainStatus") == str(code), host.last_words()
    assert host.show(unit, "NRestarts") == "0", host.last_words()


def status_of(host, pid):
    """/proc/PID/status."""
    return dict(line.split(":\t") for line in host.run(f"cat /proc/{pid}/status").splitlines())


def drop_in(host, unit, file):
    """What the unit's file has ready at its end for a drop-in, as one."""
    lines = re.findall(r"^#(\w+=.*)$", (REPOSITORY / "packaging" / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert lines, f"{file} has no lines for a drop-in"
    folder = f"/etc/systemd/system/{unit}.service.d"
    host.run(f"mkdir -p {folder} && cat >{folder}/override.conf && systemctl daemon-reload",
             "\n".join(["[Service]", *lines, ""]))


# --- installed ---------------------------------------------------------------------------------------


def test_the_readmes_commands_make_a_tunnel(host, rig):
    rig.check_echo()
    for unit in UNITS:
        assert host.run(f"systemctl is-enabled {unit}").strip() == "enabled"
    assert host.run("systemctl is-system-running").strip() == "running"


def test_the_unit_files_have_no_warning(host):
    files = " ".join(f"{unit}.service" for unit in UNITS)
    assert host.run(f"systemd-analyze verify --man=no --recursive-errors=no {files} 2>&1") == ""


@pytest.mark.parametrize("unit", UNITS)
def test_the_daemon_is_nobody_in_particular_and_has_no_right(host, unit):
    pid = host.main_pid(unit)
    status = status_of(host, pid)
    assert all(int(uid) > 1000 for uid in status["Uid"].split())
    assert all(status[kind] == NO_CAPABILITY for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")), status
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", status
    for folder in ("/etc", "/usr/local/bin", "/var/lib"):
        said = host.run(f"nsenter --mount --target {pid} touch {folder}/file 2>&1", code=1)
        assert "Read-only file system" in said


def test_the_filter_of_system_calls_leaves_the_loop_its_choice(host):
    expected = "epoll" if io_uring_error() else "uring"
    wait_until(lambda: re.search(rf"edge ready.*\bio={expected}\b", host.run(f"journalctl --unit {EDGE}")), 10,
               lambda: f"the edge says that it is ready with {expected}{host.last_words()}")


def test_the_filter_of_system_calls_lets_threads_that_carry_bulk_be_woken_later(host, rig):
    visitor, service = rig.pair()
    ended = threading.Event()

    def send():
        while not ended.is_set():
            service.send(bytes(CHUNK))
        service.finish()

    def policies():
        stats = host.run(f"cat /proc/{host.main_pid(EDGE)}/task/*/stat").splitlines()
        return [int(stat.rpartition(")")[2].split()[38]) for stat in stats]  # the 41st of proc(5)

    sender, receiver = Task(send), Task(visitor.receive_to_end)
    try:
        wait_until(lambda: os.SCHED_BATCH in policies(), 20, lambda: f"a thread's policy is SCHED_BATCH: {policies()}")
    finally:
        ended.set()
    assert receiver.result().ending == FIN
    sender.result()


def test_only_root_reads_the_tokens_file_and_the_agent_has_a_copy(host):
    assert host.run("stat -c '%a %U' /etc/natrp/home.token").strip() == "600 root"
    words = host.run(f"tr '\\0' '\\n' </proc/{host.main_pid(AGENT)}/cmdline").splitlines()
    copy = words[words.index("--token-file") + 1]
    assert copy == f"/run/credentials/{AGENT}.service/token"
    inside = f"nsenter --mount --target {host.main_pid(AGENT)} cat {copy}"
    assert host.run(inside) == host.run("cat /etc/natrp/home.token")


def test_the_status_shows_the_agents_public_address(host, rig):
    port = rig.address[1]
    assert f'Status: "public address: edge.example.org:{port}"' in host.run(f"systemctl status {AGENT}")


# --- starts and ends ---------------------------------------------------------------------------------


def test_the_state_survives_a_restart(host, rig):
    def key():
        return hashlib.sha256(host.run("cat /var/lib/natrp-engine/edge.key").encode()).digest()

    before = rig.address, key(), host.main_pid(AGENT)
    host.run(f"systemctl restart {EDGE}")
    wait_until(lambda: host.show(AGENT, "StatusText").endswith(f":{before[0][1]}"), 15, "the agent has come back")
    rig.check_echo()
    assert (rig.address, key(), host.main_pid(AGENT)) == before
    assert host.run("stat -L -c %a /var/lib/natrp-engine").strip() == "700"


@pytest.mark.parametrize("unit", UNITS)
def test_a_daemon_that_is_killed_is_started_again(host, rig, unit):
    address = rig.address
    host.run(f"systemctl kill --kill-whom=main --signal=KILL {unit}")
    wait_until(lambda: host.show(unit, "NRestarts") == "1" and host.show(unit, "ActiveState") == "active", 10,
               lambda: f"{unit} is started again{host.last_words()}")
    assert rig.address == address
    rig.check_echo()


def test_an_edge_that_is_away_holds_up_no_agents_start(host, rig):
    address = rig.address
    host.run(f"systemctl stop {AGENT} {EDGE}")
    host.run(f"systemctl start {AGENT}")
    assert host.show(AGENT, "ActiveState") == "active"
    assert "public address" not in host.show(AGENT, "StatusText")
    host.run(f"systemctl start {EDGE}")
    assert rig.address == address
    rig.check_echo()


def test_a_refused_token_is_not_tried_again(host):
    token = host.run("natrpctl --state /var/lib/natrp-engine client add stray").split()[-1]
    host.run("natrpctl --state /var/lib/natrp-engine client remove stray")
    host.run("install -m 600 /dev/stdin /etc/natrp/stray.token", token)
    host.run("install -m 644 packaging/agent.toml /etc/natrp/stray.toml")
    said = len(host.journal.out)
    start_and_fail(host, "natrp@stray", 2)
    # The journal has it a little after systemd has the exit code.
    host.journal.wait_for(r" error .*token", stream="out", after=said)
    assert_sentence(host.run("journalctl --unit natrp@stray"), " error .*token")


def test_a_bad_configuration_is_not_tried_again(host, rig):
    host.run(f"systemctl stop {EDGE}")
    said = len(host.journal.out)
    spoil(host)
    start_and_fail(host, EDGE, 2)
    host.journal.wait_for(WRONG_FILE, stream="out", after=said)
    host.run(f"install -m 644 packaging/engine.toml /etc/natrp/ && systemctl start {EDGE}")
    rig.check_echo()


def test_who_stops_the_agent_lets_a_download_finish(host, rig):
    under_way = UnderWay(rig, BULK, 91)
    address = rig.address
    stop = Task(host.run, f"systemctl stop {AGENT}")
    rig.wait_refused(address)
    under_way.check_not_over()
    assert not stop.done
    under_way.check_completed()
    stop.result()
    assert host.show(AGENT, "Result") == "success" and host.show(AGENT, "ExecMainStatus") == "0", host.last_words()


# --- handovers ---------------------------------------------------------------------------------------


def test_a_reload_hands_over_while_a_download_runs_on(host, rig):
    under_way = UnderWay(rig, BULK, 92)
    address = rig.address
    before = host.main_pid(EDGE)
    reload(host)
    rig.check_echo()
    assert rig.address == address
    under_way.check_not_over()
    under_way.check_completed()
    wait_until(lambda: host.attempt(f"test -e /proc/{before}").returncode, 15, "the old edge has ended")
    assert host.show(EDGE, "ActiveState") == "active" and host.show(EDGE, "NRestarts") == "0", host.last_words()
    rig.check_echo()


def test_a_reload_with_a_wrong_file_fails_and_changes_nothing(host, rig):
    visitor, service = rig.pair()
    before = host.main_pid(EDGE)
    said = len(host.journal.out)
    spoil(host)
    host.run(f"systemctl reload {EDGE}", code=1)
    host.journal.wait_for(WRONG_FILE, stream="out", after=said)
    assert host.main_pid(EDGE) == before and host.show(EDGE, "ActiveState") == "active"
    check_echo(visitor, service)
    rig.check_echo()


def test_who_stops_the_unit_lets_visitors_of_both_edges_finish(host, rig):
    old = UnderWay(rig, BULK, 93)
    reload(host)
    new = UnderWay(rig, BULK, 94)
    address = rig.address
    stop = Task(host.run, f"systemctl stop {EDGE}")
    rig.wait_refused(address)
    new.check_not_over()
    new.check_completed()
    wait_until(lambda: host.main_pid(EDGE) == 0, 15, "the successor has ended")
    assert not stop.done
    old.check_not_over()
    old.check_completed()
    stop.result()
    assert host.show(EDGE, "Result") == "success" and host.show(EDGE, "ActiveState") == "inactive", host.last_words()


def test_the_third_sigterm_cuts_off_what_flows_through_the_old_edge(host, rig):
    visitor, service = rig.pair()
    reload(host)
    address = rig.address
    stop = Task(host.run, f"systemctl stop {EDGE}")  # the first
    rig.wait_refused(address)
    wait_until(lambda: host.main_pid(EDGE) == 0, 15, "the successor has ended, and the old edge is told again")
    check_echo(visitor, service)
    assert not stop.done
    host.run(f"systemctl kill {EDGE}")
    stop.result(10)
    assert visitor.wait_ended(5) == RESET
    assert host.show(EDGE, "Result") == "success", host.last_words()


def test_a_successor_that_is_killed_is_systemds_to_start_again(host, rig):
    visitor, service = rig.pair()
    check_echo(visitor, service)
    successor = reload(host)
    check_echo(visitor, service)
    host.run(f"systemctl kill --kill-whom=main --signal=KILL {EDGE}")
    wait_until(lambda: host.main_pid(EDGE) not in (0, successor) and host.show(EDGE, "ActiveState") == "active", 10,
               lambda: f"another edge is started{host.last_words()}")
    visitor.wait_ended(5)  # through the old edge: the manual says so
    rig.check_echo()
    assert host.show(EDGE, "NRestarts") == "1", host.last_words()


def test_a_successor_that_ends_at_once_is_the_old_edges_to_start_again(host, rig):
    visitor, service = rig.pair()
    before = host.main_pid(EDGE)
    said = len(host.journal.out)
    host.run("install /dev/stdin /usr/local/bin/natrp-engine", ends_when_started(1))
    host.run(f"systemctl reload {EDGE}")
    host.journal.wait_for("the successor is started again", stream="out", after=said)
    check_echo(visitor, service)
    host.run("install build/natrp-engine /usr/local/bin/")
    wait_until(lambda: host.main_pid(EDGE) != before, 15, lambda: f"a successor runs{host.last_words()}")
    rig.check_echo()
    check_echo(visitor, service)
    assert host.show(EDGE, "ActiveState") == "active" and host.show(EDGE, "NRestarts") == "0", host.last_words()


# --- what the units have ready for drop-ins -----------------------------------------------------------


def test_the_edges_drop_in_gives_it_ports_below_1024(host, rig):
    drop_in(host, EDGE, "natrp-engine.service")
    host.run("""sed -i 's/^#ports = .*/ports = "80"/' /etc/natrp/engine.toml""")
    host.run(f"systemctl restart {EDGE}")
    wait_until(lambda: rig.address[1] == 80, 15, lambda: f"the port 80 is leased{host.last_words()}")
    rig.check_echo()


def test_the_agents_drop_in_gives_it_a_groups_unix_socket(host):
    path = host.checkout / "app.sock"
    service = Service(path=path)
    host.run("groupadd --force app && chown root:app app.sock && chmod 660 app.sock")
    token = host.run("natrpctl --state /var/lib/natrp-engine client add app").split()[-1]
    host.run("install -m 600 /dev/stdin /etc/natrp/app.token", token)
    host.run("sed 's|^local = .*|local = \"unix:/mnt/app.sock\"|' packaging/agent.toml >/etc/natrp/app.toml")
    rig = HostRig(host, "natrp@app", service)
    try:
        host.run("systemctl start natrp@app")
        with contextlib.suppress(ConnectionResetError):  # it may be reset before connect(2) has told of it
            assert rig.visit().wait_ended(15) == RESET, "without it the socket is not the agent's to open"
        drop_in(host, "natrp@app", "natrp@.service")
        host.run("systemctl restart natrp@app")
        rig.check_echo()
    finally:
        rig.close()
        host.run("systemctl stop natrp@app; natrpctl --state /var/lib/natrp-engine client remove app")
