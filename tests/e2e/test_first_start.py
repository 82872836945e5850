"""An edge with no flags at all, and the one command that it logs. Its port is fixed, and root's state folder, too: each
edge has a network of its own, and root's a /var/lib of its own, so that nothing of this host is touched."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from net import patient
from processes import GUARD, Process, program
from rig import Setup

pytestmark = [
    pytest.mark.over([Setup("auto", "auto")]),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes networks and becomes other users")]

ROOMS = ("--net", "--mount", "--propagation", "private")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")


@pytest.fixture
def place():
    """A folder that every user may enter, with copies of the programs: the build may lie where nobody else looks."""
    refusal = subprocess.run(["unshare", *ROOMS, "true"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if refusal.returncode != 0:
        pytest.skip(f"no network of its own may be made here: {refusal.stderr.strip()}")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    for name in ("natrp-engine", "natrp", "natrpctl"):
        shutil.copy(program(name), folder)
    yield folder
    shutil.rmtree(folder)


class FirstStart:
    """An edge without flags in rooms of its own, and what is run beside it there."""

    def __init__(self, place, become, prepare, environment):
        self.become = become
        self.environment = {**environment, "PATH": f"{place}:{os.environ['PATH']}"}
        script = f'set -e; ip link set lo up; {prepare}; exec "$@"'
        self.process = Process("natrp-engine", [*become, "natrp-engine"], place, env=self.environment,
                               prefix=["unshare", *ROOMS, "sh", "-c", script, "sh"])

    def beside(self, command):
        """The line of a shell in the edge's rooms, as the edge's user."""
        return ["nsenter", "--net", "--mount", "--target", str(self.process.pid), *self.become, "sh", "-c", command]

    def run(self, command):
        done = subprocess.run([*GUARD, *self.beside(command)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              env={**os.environ, **self.environment}, timeout=patient(20))
        assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout


def serves_at_once(place, become, state, prepare="true", environment=None):
    edge = FirstStart(place, become, prepare, environment or {})
    try:
        edge.process.wait_for(r"edge ready.*\bbind=0\.0\.0\.0:10022\b", 20)
        added = edge.process.wait_for(r"add one with: (natrpctl .* client add NAME)$")
        assert f"--state {state} " in added[1]
        assert edge.run(f"stat -c '%a' {state}/edge.key").strip() == "600"
        token = edge.run(added[1]).split()[-1]
        command = f"exec natrp --server 127.0.0.1:10022 --token {token} --local 127.0.0.1:9"
        agent = Process("natrp", edge.beside(command), place, env=edge.environment)
        try:
            agent.wait_for(r"^public address: 127\.0\.0\.1:2\d{4}$", stream="out")
        finally:
            agent.stop()
    finally:
        edge.process.stop()


def test_an_edge_of_root_serves_without_any_flag(yard, place):
    before = os.path.exists("/var/lib/natrp-engine")
    serves_at_once(place, (), "/var/lib/natrp-engine", "mount -t tmpfs tmpfs /var/lib")
    assert os.path.exists("/var/lib/natrp-engine") == before


def test_an_edge_of_another_user_serves_without_any_flag(yard, place):
    home = place / "state"
    home.mkdir()
    os.chown(home, 65534, 65534)
    serves_at_once(place, NOBODY, home / "natrp-engine", environment={"XDG_STATE_HOME": str(home)})
    assert (home / "natrp-engine").stat().st_uid == 65534
