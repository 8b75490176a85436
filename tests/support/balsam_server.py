"""Run a Balsam of this machine alone, for tests: PostgreSQL, Redis, Balsam's server and a site of two nodes.

    BNN_BALSAM_PYTHON=... python -m tests.support.balsam_server COMMAND ...

runs COMMAND with the variables with which Balsam's commands find the server and the site. Both nodes are this machine,
with two addresses of its loopback, and Open MPI starts a daemon for each. All files lie in one folder, and no process
is left at the end. PostgreSQL and Redis of the machine itself are not touched.
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
from collections.abc import Iterator
from pathlib import Path

from cluster import supervise
from cluster.balsam.server import PYTHON
from helpers import ROOT

SITE = "here"
SETUP = Path(__file__).with_name("balsam_site.py")
NEEDED = Path(__file__).with_name("balsam_requirements.txt")
_START_SECONDS = 120.0  # that each server has to start
# Open MPI starts its daemon on another node with this: HOST COMMAND. Here the other node is this machine too.
_AGENT = '#!/bin/sh\nshift\nexec sh -c "$*"\n'


def _programs():
    """Return the full path of each server, None for a missing one. Debian keeps PostgreSQL's off the PATH."""
    folders = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    path = os.pathsep.join([*folders, os.environ.get("PATH", os.defpath)])
    return {name: shutil.which(name, path=path) for name in ("initdb", "postgres", "redis-server")}


def missing() -> str:
    """Return a sentence that says what is missing here for this Balsam, or "" if nothing is."""
    if not os.environ.get(PYTHON):
        return f"{PYTHON} is not set: a Python that has what {NEEDED.name} lists"
    absent = [name for name, path in _programs().items() if not path]
    return f"no server here: {', '.join(absent)} not found (apt-get install postgresql redis-server)" if absent else ""


@contextlib.contextmanager
def balsam() -> Iterator[dict[str, str]]:
    """Run a Balsam, and yield the environment that its commands need.

    Raises:
      RuntimeError: a server did not start in time. The message holds the end of its output.
    """
    folder = Path(tempfile.mkdtemp(prefix="bnn-balsam-"))
    folder.chmod(0o711)  # for PostgreSQL's user, who has to reach a folder in it
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
        # `balsam site start` would leave this agent running in the background.
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
    # Both nodes are this host, so Open MPI's shared memory cannot tell the ranks of one node from those of the other.
    mpi = {"plm_rsh_agent": str(agent), "btl": "self,tcp", "btl_tcp_if_include": "lo", "oob_tcp_if_include": "lo"}
    mpi["mpi_yield_when_idle"] = "1"  # waiting ranks leave the core to other processes, such as Balsam's
    return {**os.environ, **balsam, **{f"OMPI_MCA_{key}": value for key, value in mpi.items()}}


def _database(folder, environment, servers):
    """Start a PostgreSQL that listens only on a socket in `folder`. As root, start it as user postgres."""
    place = folder / "database"
    place.mkdir()
    as_other = []
    if os.geteuid() == 0:
        shutil.chown(place, "postgres", "postgres")
        as_other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
    initdb, postgres = _programs()["initdb"], _programs()["postgres"]
    data = str(place / "data")
    _run(folder, environment, *as_other, initdb, "-D", data, "-U", "postgres", "--auth=trust", "--no-sync")
    # PostgreSQL's single-user mode creates the database before anybody can connect.
    single = [*as_other, postgres, "--single", "-D", data, "postgres"]
    _run(folder, environment, *single, text="CREATE DATABASE balsam;\n")
    listen = ["-k", str(place), "-c", "listen_addresses=", "-c", "fsync=off"]
    servers.append(_start(folder, environment, "postgres", *as_other, postgres, "-D", data, *listen))
    _await(folder, "postgres", servers[-1], (place / ".s.PGSQL.5432").exists)


def _start(folder, environment, name, *words, where=None):
    """Start a server, which ends with this process, together with all processes that it has started."""
    with open(folder / f"{name}.out", "wb") as out:
        return subprocess.Popen(
            [*supervise.command(folder), *words], cwd=where or folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=out, stderr=out,
        )  # fmt: skip


def _run(folder, environment, *words, text=""):
    """Run one step of the set-up, with `text` as its input, and check that it succeeds."""
    done = subprocess.run(
        words, cwd=folder, env=environment, input=text, capture_output=True, text=True, timeout=_START_SECONDS,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit status {done.returncode}\n{(done.stdout + done.stderr)[-1500:]}")


def _await(folder, name, server, ready):
    until = time.monotonic() + _START_SECONDS
    while not ready():
        if server.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{name} did not start:\n{(folder / f'{name}.out').read_text()[-1500:]}")
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
