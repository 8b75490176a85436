"""A Balsam of this machine alone, for tests: PostgreSQL, Redis, Balsam's server and a site of two nodes, in one folder.

    BNN_BALSAM_PYTHON=... python -m tests.support.balsam_server COMMAND ...

runs COMMAND with the variables by which Balsam's commands find the server and the site. Both nodes are this machine, by
two addresses of its loopback; Open MPI starts a daemon for each. Nothing of the machine's own PostgreSQL or Redis is
touched, and when it ends no process is left.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from cluster import supervise as leash
from cluster.balsam.server import PYTHON
from helpers import ROOT

SITE = "here"
SETUP = Path(__file__).with_name("balsam_site.py")
NEEDED = Path(__file__).with_name("balsam_requirements.txt")
_UP = 120.0  # seconds that each server has to come up
# Open MPI reaches another node by this: HOST COMMAND. Here the other node is this machine too.
_AGENT = '#!/bin/sh\nshift\nexec sh -c "$*"\n'


def _programs():
    """Full paths of the servers by name; Debian keeps PostgreSQL's off the PATH. None for one that is missing."""
    folders = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    path = os.pathsep.join([*folders, os.environ.get("PATH", os.defpath)])
    return {name: shutil.which(name, path=path) for name in ("initdb", "postgres", "redis-server")}


def missing():
    """What is lacking here for a Balsam of one's own: a sentence, or "" if nothing is."""
    if not os.environ.get(PYTHON):
        return f"{PYTHON} is not set: a Python that has what {NEEDED.name} lists"
    absent = [name for name, path in _programs().items() if not path]
    return f"no server here: {', '.join(absent)} not found (apt-get install postgresql redis-server)" if absent else ""


@contextlib.contextmanager
def balsam():
    """A running Balsam; yields the environment that its commands need.

    Raises:
      RuntimeError: a part of it did not come up in time; with the end of what it said.
    """
    folder = Path(tempfile.mkdtemp(prefix="bnn-balsam-"))
    folder.chmod(0o711)  # PostgreSQL's user goes through
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = _environment(folder)
    servers = []
    try:
        _database(folder, environment, servers)
        redis = [_programs()["redis-server"], "--port", "0", "--unixsocket", str(folder / "redis.sock"), "--save", ""]
        servers.append(_start(folder, environment, "redis", *redis, "--dir", str(folder)))
        _await(folder, "redis", servers[-1], (folder / "redis.sock").exists)
        python, url = os.environ[PYTHON], f"http://127.0.0.1:{port}"
        _run(folder, environment, python, str(SETUP), "tables")
        service = [python, "-m", "uvicorn", "balsam.server.main:app", "--host", "127.0.0.1", "--port", str(port)]
        servers.append(_start(folder, environment, "server", *service))
        _await(folder, "server", servers[-1], lambda: _answers(f"{url}/auth/how"))
        _run(folder, environment, python, str(SETUP), "site", url, str(folder / "site"), SITE)
        # The agent that `balsam site start` would leave in the background.
        agent = [python, "-m", "balsam.site.service.main"]
        servers.append(_start(folder, environment, "site", *agent, where=folder / "site"))
        yield environment
    finally:
        for server in reversed(servers):
            server.terminate()
            server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _environment(folder):
    agent = folder / "agent"
    agent.write_text(_AGENT)
    agent.chmod(0o755)
    balsam = {
        "BALSAM_DATABASE_URL": f"postgresql://postgres@/balsam?host={folder}/database",
        "BALSAM_REDIS_PARAMS": json.dumps({"unix_socket_path": str(folder / "redis.sock")}),
        "BALSAM_AUTH_LOGIN_METHODS": '["password"]',
        "BALSAM_LOG_DIR": str(folder / "log"),
        "BALSAM_CLIENT_PATH": str(folder / "client.yml"),
        "BALSAM_SITE_PATH": str(folder / "site"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(SETUP.parent)]),
    }
    # Both nodes are this host: Open MPI's shared memory would take ranks of one for those of the other.
    mpi = {"plm_rsh_agent": str(agent), "btl": "self,tcp", "btl_tcp_if_include": "lo", "oob_tcp_if_include": "lo"}
    mpi["mpi_yield_when_idle"] = "1"  # ranks that wait leave the core to the others, Balsam's among them
    return {**os.environ, **balsam, **{f"OMPI_MCA_{key}": value for key, value in mpi.items()}}


def _database(folder, environment, servers):
    """Start a PostgreSQL that listens on a socket in `folder` alone. It refuses to run as root."""
    place = folder / "database"
    place.mkdir()
    as_other = []
    if os.geteuid() == 0:
        shutil.chown(place, "postgres", "postgres")
        as_other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
    initdb, postgres = _programs()["initdb"], _programs()["postgres"]
    data = str(place / "data")
    _run(folder, environment, *as_other, initdb, "-D", data, "-U", "postgres", "--auth=trust", "--no-sync")
    # Its single-user mode makes the database before anybody can connect.
    single = [*as_other, postgres, "--single", "-D", data, "postgres"]
    _run(folder, environment, *single, said="CREATE DATABASE balsam;\n")
    listen = ["-k", str(place), "-c", "listen_addresses=", "-c", "fsync=off"]
    servers.append(_start(folder, environment, "postgres", *as_other, postgres, "-D", data, *listen))
    _await(folder, "postgres", servers[-1], (place / ".s.PGSQL.5432").exists)


def _start(folder, environment, name, *words, where=None):
    """A server on a leash: it ends with this process, and all that it started with it."""
    with open(folder / f"{name}.out", "wb") as out:
        return subprocess.Popen(
            [*leash.command(folder), *words], cwd=where or folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=out, stderr=out,
        )  # fmt: skip


def _run(folder, environment, *words, said=""):
    """Run a step of the setting up, which must end, and well."""
    done = subprocess.run(
        words, cwd=folder, env=environment, input=said, capture_output=True, text=True, timeout=_UP,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit status {done.returncode}\n{(done.stdout + done.stderr)[-1500:]}")


def _await(folder, name, server, ready):
    until = time.monotonic() + _UP
    while not ready():
        if server.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{name} did not come up:\n{(folder / f'{name}.out').read_text()[-1500:]}")
        time.sleep(0.2)


def _answers(url):
    with contextlib.suppress(urllib.error.URLError, ConnectionError):
        return urllib.request.urlopen(url, timeout=10).status == 200
    return False


def main():
    if missing():
        sys.exit(missing())
    with balsam() as environment:
        sys.exit(subprocess.run(sys.argv[1:], env=environment).returncode)


if __name__ == "__main__":
    main()
