"""Bad input gets a sentence and exit code 2, and nothing half-started."""

import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from net import host_port, split_host_port
from processes import EXIT_REFUSED, Process, assert_sentence, flags, program
from rig import Setup

pytestmark = pytest.mark.over([Setup("auto", "auto")])

# An agent with nothing wrong but that nobody is there to answer.
AGENT = {"server": "127.0.0.1:9", "token": "ntrp1_" + "A" * 86, "local": "127.0.0.1:80"}


def refused(yard, name, words, *mentions):
    """The program ends with exit code 2 and a sentence that mentions each of these."""
    process = Process(name, [program(name), *words], yard.directory)
    try:
        code = process.wait_exit(15)
    finally:
        process.kill()
    assert code == EXIT_REFUSED, f"exit code {code} instead of {EXIT_REFUSED}\n{process.describe()}"
    assert_sentence(process.err, *mentions)
    assert "public address" not in process.out
    return process


def edge_refused(yard, changes, *mentions, words=()):
    """An edge with one bad flag; nothing may be left of it. None takes a flag away."""
    options = yard.edge_options(**changes)
    refused(yard, "natrp-engine", [*flags(options), *words], *mentions)
    for key in ("bind", "admin"):
        if key not in changes:
            socket.create_server(split_host_port(options[key])).close()  # nobody listens
    if "state" not in changes:
        assert not left_in(options["state"]), f"a refused edge left {left_in(options['state'])}"


def left_in(state):
    return os.listdir(state) if os.path.isdir(state) else []


@pytest.mark.parametrize("flag, value, mention", [
    ("ports", "20010-20000", "20010"), ("ports", "0-10", "port"), ("ports", "1-70000", "70000"),
    ("ports", "ssh", "ssh"),
    ("ports", "20000,", "port"), ("ports", "20000-20010-20020", "port"),
    ("bind", "127.0.0.1:99999", "99999"), ("bind", "127.0.0.1:http-alt?", "bind"), ("bind", "nonsense:::1", "bind"),
    ("public_bind", "not an address", "public-bind|not an address"), ("admin", "nonsense", "admin"),
    ("workers", "-1", "workers"), ("workers", "many", "workers"), ("workers", "1000000", "workers"),
    ("io", "kqueue", "kqueue|uring"), ("pump", "magic", "magic|splice"), ("log_level", "loud", "loud|log-level"),
    ("log_format", "xml", "xml|log-format"), ("drain_seconds", "-5", "drain"), ("grace_seconds", "soon", "grace"),
    ("pipes_max", "-1", "pipes")], ids=lambda value: str(value)[:24] or "empty")
def test_an_edge_refuses_a_bad_value_of_a_flag(yard, flag, value, mention):
    edge_refused(yard, {flag: value}, mention)


def test_an_edge_refuses_an_unknown_flag(yard):
    edge_refused(yard, {}, "frobnicate", words=["--frobnicate", "1"])


def test_an_edge_refuses_a_word_that_belongs_to_no_flag(yard):
    edge_refused(yard, {}, "frobnicate", words=["frobnicate"])


def test_an_edge_refuses_a_state_folder_that_can_not_be_made(yard):
    file = yard.path("file")
    file.write_text("in the way")
    for state in (file, file / "below"):
        edge_refused(yard, {"state": state}, str(file))
    assert file.read_text() == "in the way"


def test_an_edge_refuses_a_bind_address_that_is_busy(yard):
    options = yard.edge_options()
    with socket.create_server(split_host_port(options["bind"])):
        refused(yard, "natrp-engine", flags(options), options["bind"].replace(".", r"\."), "in use")
        socket.create_server(split_host_port(options["admin"])).close()  # nobody listens
    assert not os.path.exists(options["state"])


def test_an_edge_refuses_an_admin_address_that_is_busy(yard):
    options = yard.edge_options()
    with socket.create_server(split_host_port(options["admin"])):
        process = refused(yard, "natrp-engine", flags(options), "--admin", options["admin"].replace(".", r"\."),
                          "in use", "--admin off")
        assert "no such address" not in process.err
        socket.create_server(split_host_port(options["bind"])).close()
    assert not os.path.exists(options["state"])


def test_an_edge_refuses_an_admin_address_of_another_machine(yard):
    options = yard.edge_options(admin="192.0.2.1:9022")
    process = refused(yard, "natrp-engine", flags(options), "--admin", r"192\.0\.2\.1:9022",
                      "no such address", "--admin off")
    assert "in use" not in process.err


def test_an_edge_refuses_the_admin_address_of_another_edge(yard):
    edge = yard.edge()
    options = yard.edge_options(admin=edge.options["admin"])
    refused(yard, "natrp-engine", flags(options), edge.options["admin"].replace(".", r"\."), "in use")
    assert edge.get("/healthz") == "ok\n"


def test_an_edge_refuses_a_bind_address_of_another_machine(yard):
    edge_refused(yard, {"bind": "192.0.2.1:10022"}, r"192\.0\.2\.1", "no such address")


def test_an_edge_refuses_a_public_bind_address_of_another_machine(yard):
    edge_refused(yard, {"public_bind": "192.0.2.1"}, "--public-bind", "no such address")


def test_a_second_edge_of_a_state_folder_is_refused(yard):
    edge = yard.edge()
    refused(yard, "natrp-engine", flags(yard.edge_options(state=edge.state)), "another edge", str(edge.state))
    assert edge.process.alive
    edge.add_client()  # the first one's folder is as it was


def test_a_second_edge_of_a_state_folder_hears_of_the_first_and_not_of_its_port(yard):
    edge = yard.edge()
    refused(yard, "natrp-engine", flags(edge.options), "another edge", str(edge.state))
    assert edge.process.alive


def test_an_edge_refuses_a_state_folder_that_it_may_not_write(yard):
    # Root may write everywhere: another user is asked for then.
    prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"] if os.geteuid() == 0 else []
    place = Path("/tmp" if prefix else yard.directory)
    folder = Path(tempfile.mkdtemp(dir=place))
    try:
        os.chmod(folder, 0o500)
        # The programs may lie where nobody else may look: a copy is run.
        for state in (folder, folder / "below"):
            copy = Path(tempfile.mkdtemp(dir=place)) / "natrp-engine"
            os.chmod(copy.parent, 0o755)
            shutil.copy(program("natrp-engine"), copy)
            process = Process("natrp-engine", [*prefix, copy, *flags(yard.edge_options(state=state))],
                              yard.directory)
            try:
                assert process.wait_exit(15) == EXIT_REFUSED, process.describe()
            finally:
                process.kill()
                shutil.rmtree(copy.parent)
            assert_sentence(process.err, str(folder), "permission|may not|owner")
            assert not left_in(folder)
    finally:
        os.chmod(folder, 0o700)
        shutil.rmtree(folder)


def with_descriptors(count):
    """The prefix that runs a program with so many open files at most."""
    return ["prlimit", f"--nofile={count}:{count}", "--"]


@pytest.mark.parametrize("count", [8, 12, 16, 32, 90])
@pytest.mark.parametrize("name", ["natrp-engine", "natrp"])
def test_too_few_descriptors_are_refused_with_a_remedy(yard, name, count):
    options = yard.edge_options(workers=2) if name == "natrp-engine" else {**AGENT, "workers": 2}
    process = Process(name, [program(name), *flags(options)], yard.directory, prefix=with_descriptors(count))
    try:
        assert process.wait_exit(15) == EXIT_REFUSED, process.describe()
    finally:
        process.kill()
    assert_sentence(process.err, rf"open files, {count},", "ulimit -n", "LimitNOFILE")


# Two workers and the control thread map a GiB each.
@pytest.mark.parametrize("mib", [100, 1000, 2200, 3000, 3100, 3200, 3400, 3600])
@pytest.mark.parametrize("name", ["natrp-engine", "natrp"])
def test_too_little_address_space_is_refused_with_a_remedy_or_enough(yard, name, mib):
    if any(library in Path(program(name)).read_bytes() for library in (b"libasan", b"libtsan")):
        pytest.skip("a sanitizer maps terabytes before main")
    options = yard.edge_options(workers=2) if name == "natrp-engine" else {**AGENT, "workers": 2}
    # Descriptors: each is a slot of the tables that are mapped.
    process = Process(name, [program(name), *flags(options)], yard.directory,
                      prefix=[*with_descriptors(1024), "prlimit", f"--as={mib << 20}", "--"])
    try:
        if mib > 3200:
            process.wait_for("edge ready|agent started")
            return
        assert process.wait_exit(15) == EXIT_REFUSED, process.describe()
    finally:
        process.kill()
    assert_sentence(process.err, "MiB of address space", "ulimit -v", "--workers")


def test_the_fewest_descriptors_carry_a_visitor_and_are_warned_about(yard):
    edge = yard.edge(workers=2, prefix=with_descriptors(96))
    service = yard.service()
    agent = yard.agent(edge, edge.add_client(), service, workers=2, prefix=with_descriptors(96))
    for process in (edge.process, agent.process):
        assert_sentence(process.err, "enough for few visitors only", "ulimit -n")
    visitor = yard.peer(agent.address)
    visitor.send(b"hello")
    assert yard.closing(service.accept()).receive(5) == b"hello"


# --- files ---------------------------------------------------------------------------------------------------

def config(yard, text):
    file = yard.path("config.toml")
    file.write_text(text)
    return file


EDGE_FILES = [
    ("an unknown key", 'workers = 1\n\nfrobnicate = true\n', 3, "frobnicate"),
    ("a key of a section at the top", 'workers = 1\nnatrp_grpc = true\n', 2, r"natrp_grpc.*\[compat\]"),
    ("a key of the top in a section", '[compat]\nnatrp_grpc = true\ndrain_seconds = 5\n', 3, "drain_seconds.*top"),
    ("a wrong type", 'drain_seconds = 5\nworkers = "one"\n', 2, "workers"),
    ("a value out of range", '\n\n\nworkers = -3\n', 4, "workers"),
    ("a bad choice", 'pump = "magic"\n', 1, "pump"),
    ("a bad port range", 'workers = 1\nports = "9-3"\n', 2, "ports"),
    ("no TOML at all", 'workers = 1\nthis is not toml\n', 2, ""),
]


@pytest.mark.parametrize("what, text, line, key", EDGE_FILES, ids=[case[0] for case in EDGE_FILES])
def test_an_edge_names_the_file_the_line_and_the_key_of(yard, what, text, line, key):
    file = config(yard, text)
    edge_refused(yard, {"workers": None, "pump": None, "ports": None, "drain_seconds": None, "config": file},
                 file.name, rf"(?::|line ){line}\b", key)


AGENT_FILES = [
    ("an unknown key of a tunnel",
     '[[tunnel]]\nname = "a"\nlocal = "127.0.0.1:80"\nremote_prot = 1\n', 4, "remote_prot"),
    ("a key of the top in a tunnel",
     '[[tunnel]]\nname = "a"\nlocal = "127.0.0.1:80"\ndrain_seconds = 1\n', 4, "drain_seconds.*top"),
    ("a tunnel without an address", '[[tunnel]]\nname = "a"\n', 1, "local"),
    ("a port out of range", '[[tunnel]]\nname = "a"\nlocal = "127.0.0.1:80"\nremote_port = 70000\n', 4, "remote_port"),
    ("a wrong type", 'on_conflict = "refuse"\ntoken = 5\n', 2, "token"),
    ("an unknown table", '[tunel]\nname = "a"\n', 1, "tunel"),
    ("two tunnels of one name",
     '[[tunnel]]\nname = "twin"\nlocal = "127.0.0.1:80"\n[[tunnel]]\nname = "twin"\nlocal = "127.0.0.1:81"\n',
     None, "twin"),
]


@pytest.mark.parametrize("what, text, line, key", AGENT_FILES, ids=[case[0] for case in AGENT_FILES])
def test_an_agent_names_the_file_the_line_and_the_key_of(yard, what, text, line, key):
    file = config(yard, text)
    words = ["--server", "127.0.0.1:9", "--token", AGENT["token"], "--config", str(file)]
    mentions = [file.name, key] + ([rf"(?::|line ){line}\b"] if line else [])
    refused(yard, "natrp", words, *mentions)


@pytest.mark.parametrize("name", ["natrp-engine", "natrp"])
def test_a_configuration_file_that_is_not_there_is_named(yard, name):
    refused(yard, name, ["--config", str(yard.directory / "nowhere.toml")], "nowhere.toml")


# --- the agent -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("flag, value, mention", [
    ("server", None, "server"), ("local", None, "local"), ("token", None, "token"),
    ("server", "127.0.0.1:99999", "99999"), ("server", "", "server"), ("local", "nonsense", "nonsense|local"),
    ("local", "127.0.0.1:99999", "99999"), ("local", "unix:", "unix"), ("local", "unix:/" + "x" * 200, "unix|long"),
    ("remote_port", "70000", "70000"), ("remote_port", "-1", "remote-port"), ("remote_port", "http", "http"),
    ("pin", "sha256:xyz", "pin"), ("pin", "md5:00", "pin"), ("ca", "/nonexistent/ca.pem", "ca.pem"),
    ("workers", "-1", "workers"), ("io", "kqueue", "kqueue|uring"), ("pump", "magic", "magic|splice"),
    ("on_conflict", "fight", "fight|on-conflict"), ("frobnicate", "1", "frobnicate"),
    ("token_file", "/nonexistent/token", "token")], ids=lambda value: str(value)[:24] or "empty")
def test_an_agent_refuses_a_bad_value_of_a_flag(yard, flag, value, mention):
    options = {**AGENT, flag: value}
    if flag == "token_file":
        options.pop("token")
    refused(yard, "natrp", flags(options), mention)


def test_an_agent_refuses_a_token_file_without_a_token(yard):
    file = yard.path("token")
    file.write_text("\n")
    refused(yard, "natrp", flags({**AGENT, "token": None, "token_file": file}), file.name)


def test_an_agent_refuses_a_token_file_that_is_a_folder(yard):
    folder = yard.path("token")
    folder.mkdir()
    refused(yard, "natrp", flags({**AGENT, "token": None, "token_file": folder}), folder.name)


# --- --check -----------------------------------------------------------------------------------------------------

def run(yard, name, words):
    process = Process(name, [program(name), *words], yard.directory)
    try:
        return process.wait_exit(15), process
    finally:
        process.kill()


def test_check_accepts_a_good_edge_and_starts_nothing(yard):
    options = yard.edge_options()
    code, process = run(yard, "natrp-engine", [*flags(options), "--check"])
    assert code == 0, process.describe()
    assert "edge ready" not in process.err
    assert not left_in(options["state"])


def test_check_accepts_a_good_file_and_refuses_a_bad_one(yard):
    options = yard.edge_options()
    good = config(yard, f'bind = "{options["bind"]}"\nstate = "{options["state"]}"\nports = "{options["ports"]}"\n')
    code, process = run(yard, "natrp-engine", ["--config", str(good), "--check"])
    assert code == 0, process.describe()
    refused(yard, "natrp-engine", ["--config", str(config(yard, "bnid = 1\n")), "--check"], "bnid")


def test_check_of_an_agent_dials_nobody(yard):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        nobody.settimeout(0.3)
        options = {**AGENT, "server": host_port(*nobody.getsockname())}
        code, process = run(yard, "natrp", [*flags(options), "--check"])
        assert code == 0, process.describe()
        with pytest.raises(socket.timeout):
            nobody.accept()
    refused(yard, "natrp", [*flags({**AGENT, "local": "nonsense"}), "--check"], "nonsense|local")


@pytest.mark.parametrize("text, mention", [
    ("nothing of use\n", "holds no certificate"),
    ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 1 in it cannot be read"),
    ("-----BEGIN CERTIFICATE-----\n", "certificate 1 in it cannot be read")], ids=["words", "broken", "cut"])
@pytest.mark.parametrize("words", [(), ("--check",)], ids=["start", "check"])
def test_an_agent_reads_the_certificates_of_its_ca_file_at_its_start_and_when_checked(yard, words, text, mention):
    file = yard.path("ca.pem")
    file.write_text(text)
    refused(yard, "natrp", [*flags({**AGENT, "ca": file}), *words], file.name, mention, "PEM form")


@pytest.mark.parametrize("name", ["natrp-engine", "natrp", "natrpctl"])
def test_help_goes_to_standard_output_and_exits_with_0(yard, name):
    code, process = run(yard, name, ["--help"])
    assert code == 0, process.describe()
    assert len(process.out.split()) > 20
