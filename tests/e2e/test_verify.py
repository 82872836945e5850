"""Who the edge is by an authority of its operator: a certificate in the state folder, and agents with --ca."""

import subprocess

import pytest

from conftest import CONTROL
from net import host_port, patient
from processes import program

pytestmark = pytest.mark.over(CONTROL[:1])


class Authority:
    """A CA of this test's own, made by the openssl command."""

    def __init__(self, yard, name):
        self._yard = yard
        self.key, self.file = yard.path(f"{name}.key"), yard.path(f"{name}.pem")
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                      "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.file)

    @staticmethod
    def _openssl(*words):
        done = subprocess.run(["openssl", *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=patient(20))
        assert done.returncode == 0, done.stderr

    def sign(self, state, names):
        """An edge's key and certificate, with these names, where an operator puts them."""
        state.mkdir(mode=0o700)
        request, names_file = self._yard.path("edge.csr"), self._yard.path("names")
        names_file.write_text(f"subjectAltName={names}\n")
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=edge",
                      "-keyout", state / "edge.key", "-out", request)
        (state / "edge.key").chmod(0o600)
        self._openssl("x509", "-req", "-in", request, "-CA", self.file, "-CAkey", self.key, "-set_serial", "2",
                      "-days", "2", "-extfile", names_file, "-out", state / "edge.crt")


@pytest.fixture
def authority(yard):
    return Authority(yard, "authority")


@pytest.fixture
def edge(yard, authority):
    """An edge on 127.0.0.1 whose certificate is for localhost."""
    edge = yard.edge(start=False, host="127.0.0.1", public_ports=2)
    authority.sign(edge.state, "DNS:localhost")
    return edge.start()


def by_name(edge):
    return host_port("localhost", edge.bind[1])


def test_an_agent_with_ca_knows_the_edge_by_its_host_name(yard, edge, authority):
    service = yard.service()
    agent = yard.agent(edge, edge.add_client(), service, server=by_name(edge), ca=authority.file)
    visitor = yard.peer(agent.address)
    visitor.send(b"hello")
    assert yard.closing(service.accept()).receive(5) == b"hello"


def test_the_pin_of_an_operators_own_key_is_in_the_token(yard, edge):
    yard.agent(edge, edge.add_client(), yard.service())


def test_check_accepts_a_ca_file_with_a_certificate(yard, authority):
    words = [program("natrp"), "--server", "localhost:9", "--token", "ntrp1_" + "A" * 86, "--local", "127.0.0.1:9",
             "--ca", authority.file, "--check"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patient(20))
    assert done.returncode == 0, done.stderr


def test_an_agent_with_a_wrong_ca_is_refused(yard, edge):
    other = Authority(yard, "other")
    agent = yard.agent(edge, edge.add_client(), "127.0.0.1:9", server=by_name(edge), ca=other.file, start="unready")
    agent.refused("not accepted with --ca", other.file.name)


def test_an_agent_that_dials_another_name_than_the_certificates_is_refused(yard, edge, authority):
    agent = yard.agent(edge, edge.add_client(), "127.0.0.1:9", ca=authority.file, start="unready")
    agent.refused("not accepted with --ca", r"host 127\.0\.0\.1", "mismatch")


def test_a_ca_file_that_is_gone_ends_no_agent(yard, edge, authority):
    agent = yard.agent(edge, edge.add_client(), yard.service(), server=by_name(edge), ca=authority.file)
    authority.file.unlink()
    edge.process.stop()
    edge.start()
    agent.wait_address(2)


def test_a_ca_file_with_a_broken_certificate_is_refused_with_the_reason(yard, edge, authority):
    text = authority.file.read_text()
    authority.file.write_text(text.replace("-----END", "A-----END"))
    agent = yard.agent(edge, edge.add_client(), "127.0.0.1:9", server=by_name(edge), ca=authority.file,
                       start="unready")
    agent.refused("certificate 1 in it cannot be read")
