"""What listens on which address, who can read which files, and what is unpickled."""

import ast
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from cluster import engines
from helpers import ROOT

import nbformat
import psutil
import pytest

from tests.support.notebooks import command, notebook, text_of, wait_for
from tests.support.processes import assert_gone

LOOPBACK = {"127.0.0.1", "::1"}
pytestmark = pytest.mark.timeout(600)
ranks_needed = pytest.mark.skipif(bool(engines.missing()), reason=" ".join(engines.missing()))


def listening(pid):
    """Return (program, address, port) of each listening socket of a process and its descendants, and all programs."""
    found, programs = set(), []
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            programs.append(" ".join(process.cmdline()))
            for one in process.net_connections("inet"):
                if one.status == psutil.CONN_LISTEN or (one.type == socket.SOCK_DGRAM and not one.raddr):
                    found.add((os.path.basename(process.cmdline()[0]), one.laddr.ip, one.laddr.port))
    return found, programs


def exposed(found):
    """Return the sockets that other machines can reach, without mpiexec's control port.

    Open MPI 4 binds that port to every interface, even if oob_tcp_if_include names one (create_listen in its
    oob_tcp_listener.c). It asks a peer for name and version, but not for a key. `disturb` sends it unexpected bytes.
    """
    return {one for one in found if one[1] not in LOOPBACK and one[0] != "mpiexec"}


@ranks_needed
def test_kernel_controller_and_engines_of_a_batch_run_listen_on_loopback_alone(tmp_path):
    mark, go = tmp_path / "running", tmp_path / "go"
    path = notebook(
        tmp_path,
        "01_ranks.ipynb",
        mode="import os\nfrom ipykernel import get_connection_file\n"
        "print(oct(os.stat(get_connection_file()).st_mode & 0o777))",
        start="from cluster import engines\nranks = engines.start(2)",
        wait=f"%%px\nimport os, time\nfrom mpi4py import MPI\nMPI.COMM_WORLD.barrier()\nopen({str(mark)!r}, 'w')\n"
        f"until = time.monotonic() + 100\nwhile not os.path.exists({str(go)!r}) and time.monotonic() < until:\n"
        "    time.sleep(0.1)\nprint(MPI.COMM_WORLD.allreduce(1))",
    )
    run = command(path, "--output", tmp_path / "out", "--ranks", 2)
    wait_for(mark, run)
    found, programs = listening(run.pid)
    disturb(found)
    go.touch()
    _, errors = run.communicate(timeout=90)
    for word in ("ipykernel_launcher", "ipyparallel.controller", "ipyparallel.engine", "mpiexec"):
        assert any(word in program for program in programs), (word, programs)
    assert len(found) > 10 and exposed(found) == set()
    assert run.returncode == 0, errors
    copy = tmp_path / "out" / "notebooks" / path.name
    assert text_of(copy, "mode") == "0o600\n" and text_of(copy, "wait") == "[stdout:0] \n2\n[stdout:1] \n2\n"


def disturb(found):
    """Send unexpected bytes to each port that other machines can reach."""
    for _, address, port in found:
        if address not in LOOPBACK:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n" * 20)


@ranks_needed
def test_ranks_of_a_training_listen_on_loopback_alone_and_their_run_is_their_owner_s(tmp_path):
    words = ["-m", "cluster.launcher", "-n", "2", sys.executable, "-m", "helpers.train", "--model=CNN_FC"]
    flags = [f"--output={tmp_path}", "--epochs=10000", "--checkpoint_every=20", "--print_step=0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BNN_OFFLINE": "1"}
    before = os.umask(0o022)
    try:
        run = subprocess.Popen([sys.executable, *words, *flags], env=environment, stdout=-1, stderr=-1, text=True)
    finally:
        os.umask(before)
    state = tmp_path / "CNN_FC" / "checkpoints" / "checkpoint"
    family = []
    try:
        await_change(state, run, 0)
        family = psutil.Process(run.pid).children(recursive=True)
        found, programs = listening(run.pid)
        disturb(found)
        await_change(state, run, state.stat().st_mtime_ns)
    finally:
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    assert_gone(family)
    assert sum("helpers.train" in program for program in programs) >= 3
    assert exposed(found) == set(), found
    assert (tmp_path / "CNN_FC").stat().st_mode & 0o777 == 0o700


def await_change(path, run, before):
    """Wait until the file exists and is newer than `before`, in nanoseconds."""
    until = time.monotonic() + 240
    while not path.exists() or path.stat().st_mtime_ns <= before:
        assert run.poll() is None and time.monotonic() < until
        time.sleep(0.1)


def test_jupyterlab_asks_for_its_token(tmp_path):
    shown = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, timeout=30).stdout
    words = shlex.split(next(line for line in shown.splitlines() if " jupyter lab " in line))
    words = words[words.index("jupyter") :] + ["--no-browser", "--port=0"]
    environment = {**os.environ, "JUPYTER_RUNTIME_DIR": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path / "none")}
    environment["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    lab = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True)
    try:
        until = time.monotonic() + 90
        # The server writes its file before it listens.
        while not (list(tmp_path.glob("jpserver-*.json")) and listening(lab.pid)[0]):
            assert lab.poll() is None and time.monotonic() < until, lab.communicate(timeout=10)
            time.sleep(0.2)
        (file,) = tmp_path.glob("jpserver-*.json")
        server = json.loads(file.read_text())
        assert file.stat().st_mode & 0o077 == 0 and len(server["token"]) >= 32
        assert status(server, {}) == 403
        assert status(server, {"Authorization": "token wrong"}) == 403
        assert status(server, {"Authorization": f"token {server['token']}"}) == 200
        found, _ = listening(lab.pid)
        assert found and {address for _, address, _ in found} <= LOOPBACK
    finally:
        lab.terminate()
        lab.communicate(timeout=30)


def status(server, headers):
    """Return the HTTP status of a request for the server's files."""
    request = urllib.request.Request(f"http://127.0.0.1:{server['port']}/api/contents", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return opener.open(request, timeout=20).status
    except urllib.error.HTTPError as error:
        return error.code


UNSAFE = {
    ("pickle", "load"), ("pickle", "loads"), ("cloudpickle", "load"), ("cloudpickle", "loads"), ("dill", "load"),
    ("joblib", "load"), ("marshal", "load"), ("marshal", "loads"), ("shelve", "open"), ("pd", "read_pickle"),
    ("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load"), ("models", "load_model"), ("saving", "load_model"),
    ("enable_unsafe_deserialization", ""),
}  # fmt: skip


def unsafe_calls(source, name):
    """Return (name, line, call) of each call in the source that could run code from a file."""
    found = []
    for node in ast.walk(ast.parse(source, name)):
        if not isinstance(node, ast.Call):
            continue
        words = ast.unparse(node.func).split(".")
        allowing = any(
            word.arg == "allow_pickle" and getattr(word.value, "value", None) is not False for word in node.keywords
        )
        if tuple(words[-2:]) in UNSAFE or words[-1] in ("load_model", "Unpickler", "read_pickle") or allowing:
            found.append((name, node.lineno, ast.unparse(node.func)))
    return found


def test_nothing_is_unpickled_from_a_file():
    assert unsafe_calls("np.load(x, allow_pickle=True)\npickle.load(f)\nkeras.models.load_model(p)", "x")[2:]
    found = []
    for path in [*ROOT.glob("helpers/**/*.py"), *ROOT.glob("cluster/**/*.py")]:
        found += unsafe_calls(path.read_text(), path.name)
    for path in ROOT.glob("notebooks/**/*.ipynb"):
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "code":
                lines = ["" if line.lstrip().startswith(("%", "!")) else line for line in cell.source.splitlines()]
                found += unsafe_calls("\n".join(lines), f"{path.name}, cell {cell.id}")
    # The only reader of pickles, for CIFAR-10's own batches, accepts nothing but arrays: tests/unit/data/ checks that.
    assert found == []
    text = (ROOT / "helpers" / "data" / "cifar10.py").read_text()
    assert text.count("pickle.") == 1 and "class _PlainUnpickler(pickle.Unpickler)" in text
