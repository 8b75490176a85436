"""Ranks on two hosts: by mpiexec, by horovodrun, as engines of a notebook, and a training that loses one of the hosts.

The hosts are network namespaces of this machine, with a name and an address each and ssh between them.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cluster import engines, launcher
from helpers import ROOT

import pytest

from tests.support import hosts as support
from tests.support.training import arguments, checkpoints, told

REASON = "; ".join(filter(None, [*engines.missing(), support.missing()]))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.skipif(bool(REASON), reason=REASON)]

START = 500  # seconds in which ranks on two hosts import TensorFlow and begin, on a busy machine
LIMIT = 150  # seconds from the loss of a host to the end of the job
PROBE = """
import json, os, socket, sys
from helpers.distributed import init
world = init()
found = world.gather_objects([world.rank, world.local_rank, socket.gethostname()]), float(world.mean(float(world.rank)))
if world.rank == 0:
    open(sys.argv[1], "w").write(json.dumps(found))
"""
ENGINES = """
import json, sys
from cluster import engines, launcher

def where():
    import socket
    from mpi4py import MPI
    return MPI.COMM_WORLD.rank, socket.gethostname(), MPI.COMM_WORLD.allreduce(1)

with engines.start(2, timeout=400) as ranks:
    found = ranks.apply(where)
open(sys.argv[1], "w").write(json.dumps(found))
"""


@pytest.fixture
def hosts(tmp_path):
    with support.network(tmp_path / "ssh") as hosts:
        yield hosts


@pytest.fixture
def allocation(hosts, tmp_path, monkeypatch):
    """The hosts as PBS gives them to a job."""
    nodes = tmp_path / "nodes"
    nodes.write_text("".join(f"{host.name}\n" for host in hosts))
    monkeypatch.setenv("PBS_NODEFILE", str(nodes))
    return hosts


def run(host, *words, limit=START):
    """Run a command on a host and return its output. It must succeed within the limit."""
    process = subprocess.Popen(
        host.command(*words), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=limit)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)
    assert process.returncode == 0, output[-3000:]
    return output


def check(hosts, result):
    """Each host has one rank, in order, and the ranks have reduced a number."""
    places, mean = json.loads(result.read_text())
    assert places == [[rank, 0, host.name] for rank, host in enumerate(hosts)] and mean == 0.5


def test_mpiexec_starts_a_rank_on_each_host_of_the_allocation(allocation, tmp_path):
    script, result = tmp_path / "probe.py", tmp_path / "result.json"
    script.write_text(PROBE)
    run(allocation[0], sys.executable, "-m", "cluster.launcher", sys.executable, str(script), str(result))
    check(allocation, result)
    assert_only_servers(allocation)


@pytest.mark.parametrize("library", ["--mpi", "--gloo"])
def test_horovodrun_starts_a_rank_on_each_host_by_ssh(hosts, tmp_path, library, monkeypatch):
    script, result = tmp_path / "probe.py", tmp_path / "result.json"
    script.write_text(PROBE)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    places = ",".join(f"{host.name}:1" for host in hosts)
    words = ["horovodrun", library, "-np", "2", "-H", places, "--start-timeout", "400"]
    run(hosts[0], *words, sys.executable, str(script), str(result))
    check(hosts, result)
    assert_only_servers(hosts)


def test_engines_of_an_allocation_run_on_both_hosts(allocation, tmp_path):
    script, result = tmp_path / "engines.py", tmp_path / "result.json"
    script.write_text(ENGINES)
    run(allocation[0], sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", str(script), str(result))
    found = json.loads(result.read_text())
    assert found == [[rank, host.name, 2] for rank, host in enumerate(allocation)]
    assert_only_servers(allocation)


def processes(host):
    """{process number: command line} of what runs on a host, but for its ssh server and its connections."""
    done = subprocess.run(["ip", "netns", "pids", host.name], capture_output=True, text=True, timeout=20)
    found = {}
    for word in done.stdout.split():
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{word}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if line and "sshd" not in line.split()[0]:
                found[int(word)] = line
    return found


def assert_only_servers(hosts, seconds=20):
    """Nothing but ssh servers runs on the hosts."""
    end = time.monotonic() + seconds
    while left := {host.name: found for host in hosts if (found := processes(host))}:
        assert time.monotonic() < end, left
        time.sleep(0.2)


@contextlib.contextmanager
def training(hosts, folder, **environment):
    """The training command on both hosts, in the midst of its steps: (the launcher's process, its log)."""
    log = folder.parent / "training.log"
    command = [sys.executable, "-m", "cluster.launcher", "-n", "2", sys.executable, "-m", "helpers.train"]
    with open(log, "w") as file:
        process = subprocess.Popen(
            hosts[0].command(*command, *arguments(folder, "--iterations=1000000")), cwd=ROOT, stdin=subprocess.DEVNULL,
            stdout=file, stderr=file, env={**os.environ, **environment}, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START
        while not checkpoints(folder):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)
        yield process, log
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def test_training_ends_with_one_line_when_all_processes_of_a_host_are_killed(allocation, tmp_path):
    with training(allocation, tmp_path / "run") as (process, log):
        done = subprocess.run(["ip", "netns", "pids", allocation[1].name], capture_output=True, text=True, timeout=20)
        for number in map(int, done.stdout.split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        status = process.wait(LIMIT)
        assert status != 0
        assert_only_servers(allocation)
        text = log.read_text()
        lines = told(text)
        assert len(lines) == 1, text
        assert "another host may be lost" in lines[0] and "--resume goes on from the checkpoint of step" in lines[0]


def test_training_ends_with_one_line_when_a_host_falls_silent(allocation, tmp_path):
    """Packets get lost. ssh notices that the host does not answer, and mpiexec ends the ranks that are left."""
    sooner = launcher.SSH_OPTIONS.replace("=15", "=2")  # a minute otherwise, in which ssh asks four times
    assert sooner != launcher.SSH_OPTIONS
    with training(allocation, tmp_path / "run", OMPI_MCA_plm_rsh_args=sooner) as (process, log):
        subprocess.run(["ip", "-n", allocation[1].name, "link", "set", "eth0", "down"], check=True, timeout=20)
        status = process.wait(LIMIT)
        assert status != 0
        assert_only_servers(allocation[:1])
        (line,) = told(log.read_text())
        assert "another host may be lost" in line and "--resume goes on from the checkpoint of step" in line
