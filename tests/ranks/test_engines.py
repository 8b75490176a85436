"""The MPI engines of a notebook, for real: started, killed, mended, and never left behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from cluster import engines, launcher
from helpers import ROOT

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

from tests.support.processes import assert_gone, children

LACKING = engines.missing(horovod=False)
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(LACKING), reason="; ".join(LACKING)),
]


@pytest.fixture(autouse=True, scope="module")
def nothing_left():
    """Whatever the tests do, engines are stopped in the end, and no process or file of theirs is left."""
    yield
    stop_all()


@pytest.fixture
def stopped():
    """No engines before the test, and none after; tests without it take those that the last one left."""
    stop_all()
    yield
    stop_all()


def stop_all():
    folder = engines._current and engines._current.folder
    engines.stop()
    assert_gone(children(), seconds=10)
    assert not folder or not folder.exists()


def find(*words):
    """Processes below this one whose command line has all of `words`, but for the leashes that hold them."""
    found = []
    for process in children():
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(process.cmdline())
            if all(word in line for word in words) and "cluster.supervise" not in line:
                found.append(process)
    return found


def ranks_processes():
    return [process for process in find("ipyparallel.engine", "--mpi") if "-n" not in process.cmdline()]


def altered_profile(folder, name, line):
    """A copy of the course's profile in `folder`, with a line more in one of its files."""
    shutil.copytree(engines.PROFILE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    with open(folder / name, "a") as file:
        file.write(f"\n{line}\n")
    # What a controller of long ago left behind must not matter.
    (folder / "security").mkdir()
    (folder / "security" / "ipcontroller-client.json").write_text("stale")
    return folder


def sleep(seconds):
    time.sleep(seconds)


CELLS = {
    "start": "from cluster import engines\nranks = engines.start(2)",
    "place": "%%px\nfrom mpi4py import MPI\nrank = MPI.COMM_WORLD.rank\nprint('rank', rank)",
    "values": "ranks['rank'] + ranks.apply_sync(lambda: 7)",
    "surroundings": "%px import os, importlib.util as util\n"
    "%px names = 'OMP_NUM_THREADS', 'BNN_DATA_DIR'\n"
    "%px found = [bool(util.find_spec('helpers')), *map(os.environ.get, names), os.getcwd()]",
    "found": "ranks['found']",
    "mistake": "%px 1 / 0",
    "kill": "%%px\nimport signal, time\ntime.sleep(1)\n"
    "if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(100)",
    "after": "%px print('nobody there')",
    "mend": "ranks = engines.start()\nranks.apply_sync(lambda: 8)",
    "stop": "engines.stop(); engines.stop()",
}


def test_a_notebook_from_start_over_a_killed_rank_to_stop(tmp_path, monkeypatch):
    monkeypatch.setenv("BNN_DATA_DIR", "/some/data")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = [nbformat.v4.new_code_cell(source, id=name) for name, source in CELLS.items()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": str(tmp_path)}}
    begun, took = {}, {}
    NotebookClient(
        notebook,
        timeout=60,
        kernel_name="python3",
        allow_errors=True,
        resources=resources,
        extra_arguments=["--log-level=CRITICAL"],
        on_cell_start=lambda cell, cell_index: begun.update({cell.id: time.monotonic()}),
        on_cell_executed=lambda cell, **_: took.update({cell.id: time.monotonic() - begun[cell.id]}),
    ).execute()
    shown = {cell.id: cell.outputs for cell in cells}

    assert shown["start"] == []
    assert [output.text for output in shown["place"]] == ["[stdout:0] \nrank 0\n[stdout:1] \nrank 1\n"]
    assert shown["values"][0].data["text/plain"] == "[0, 1, 7, 7]"
    assert eval(shown["found"][0].data["text/plain"]) == [[True, "1", "/some/data", str(tmp_path)]] * 2
    assert "ZeroDivisionError" in shown["mistake"][-1].evalue
    assert shown["kill"][-1].ename == "EngineError"
    assert took["kill"] < 30
    for name in ("kill", "after"):
        assert "An MPI engine died" in shown[name][-1].evalue
        assert "engines.start()" in shown[name][-1].evalue
        assert "signal 9" in shown[name][-1].evalue
    assert shown["mend"][0].data["text/plain"] == "[8, 8]"
    assert shown["stop"] == []


def test_without_ranks_the_rest_of_a_notebook_does_nothing(monkeypatch):
    monkeypatch.setenv("BNN_LAUNCHER", "aprun")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    sources = ["from cluster import engines\nengines.skip_rest_if_missing()", "%%px\n1 / 0", "1 / 0"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    outputs = [cell.outputs for cell in notebook.cells]
    assert "aprun is not on the PATH" in outputs[0][0].text
    assert outputs[1:] == [[], []]


def test_what_is_well_stays_and_another_number_replaces_it(stopped):
    ranks = engines.start(1)
    ranks["x"] = 5
    assert engines.start(1) is ranks
    assert ranks["x"] == [5]
    with engines.start(3) as three:
        assert three.targets == [0, 1, 2]
        with pytest.raises(engines.EngineError, match=r"stopped.*engines\.start\(\)"):
            ranks["x"]
    assert engines._current is None


def test_only_loopback_listens_and_only_the_owner_reads():
    engines.start(2)
    folder = engines._current.folder
    processes = find("ipyparallel.controller") + ranks_processes() + find("ipyparallel.engine.nanny")
    assert len(processes) >= 5
    listening = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    assert folder.stat().st_mode & 0o777 == 0o700
    files = list(folder.glob("security/ipcontroller-*.json"))
    assert len(files) == 2
    for file in files:
        assert file.stat().st_mode & 0o777 == 0o600
        info = json.loads(file.read_text())
        assert len(info["key"]) >= 32 and info["curve_serverkey"]
    assert {path.suffix for path in engines.PROFILE.iterdir() if path.is_file()} == {".py"}
    assert not (engines.PROFILE / "security").exists()


@pytest.mark.parametrize("victim", ["controller", "rank"])
def test_a_dead_controller_and_a_silent_rank_end_the_call_that_waits(tmp_path, victim):
    # Fewer beats to wait for than a busy machine would need.
    line = "c.HeartMonitor.max_heartmonitor_misses = 12"
    profile = altered_profile(tmp_path / "profile", "ipcontroller_config.py", line)
    ranks = engines.start(2, profile_dir=profile)
    if victim == "controller":
        process, blow, said = find("ipyparallel.controller")[0], signal.SIGKILL, "controller died"
    else:
        process, blow, said = ranks_processes()[0], signal.SIGSTOP, "no longer answers"
    everything = children()
    begun = time.monotonic()
    threading.Timer(1, process.send_signal, [blow]).start()
    with pytest.raises(engines.EngineError, match=rf"(?s){said}.*engines\.start\(\)"):
        ranks.apply_sync(sleep, 100)
    assert time.monotonic() - begun < 30
    assert_gone(everything, seconds=15)


@pytest.mark.parametrize(
    ("file", "line", "timeout", "said"),
    [
        ("ipcontroller_config.py", "raise SystemExit('no luck today')", 60, "Controller stopped"),
        ("ipengine_config.py", "raise SystemExit('no luck today')", 60, "Engine set stopped"),
        ("ipengine_config.py", "import time; time.sleep(300)", 15, "not ready in"),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(stopped, tmp_path, file, line, timeout, said):
    profile = altered_profile(tmp_path / "profile", file, line)
    with pytest.raises(engines.EngineError, match=said) as failure:
        engines.start(2, timeout=timeout, profile_dir=profile)
    assert "SystemExit" not in line or "no luck today" in str(failure.value)
    assert engines._current is None


def test_what_is_missing_is_named(stopped, tmp_path, monkeypatch):
    monkeypatch.setenv("BNN_LAUNCHER", "aprun")
    assert any("aprun is not on the PATH" in lack for lack in engines.missing())
    with pytest.raises(engines.EngineError, match="aprun"):
        engines.start()
    monkeypatch.setenv("BNN_LAUNCHER", "ssh")
    with pytest.raises(ValueError, match="BNN_LAUNCHER is 'ssh'"):
        engines.start()
    monkeypatch.delenv("BNN_LAUNCHER")
    monkeypatch.setenv("BNN_RUNTIME_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(engines.EngineError, match="BNN_RUNTIME_DIR"):
        engines.start()
    with pytest.raises(engines.EngineError, match="no IPython profile"):
        engines.start(profile_dir=tmp_path)
    with pytest.raises(ValueError, match="1 rank or more"):
        engines.start(0)


def test_the_launcher_of_a_job_is_used(stopped, tmp_path, monkeypatch):
    # No Slurm here: a script of srun's name notes its arguments and hands the ranks to mpiexec.
    mpiexec = launcher.program()
    script = tmp_path / "srun"
    script.write_text(
        f'#!/bin/sh\nprintf "%s " "$@" > {tmp_path}/arguments\n'
        f'[ "$1 $3 $4" = "-n --cpu-bind=cores --kill-on-bad-exit=1" ] || exit 2\nranks=$2\nshift 4\n'
        f'exec {mpiexec} --oversubscribe -n "$ranks" "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("BNN_LAUNCHER", "srun")
    assert len(engines.start(2)) == 2
    assert (tmp_path / "arguments").read_text().startswith("-n 2 ")


def test_a_job_on_several_hosts_is_told_from_one_machine(tmp_path, monkeypatch):
    assert launcher.hosts() == [] and launcher.address() == "127.0.0.1"
    assert launcher.options(launcher.cores()) == ["-bind-to", "core"]
    assert launcher.options(launcher.cores() + 1) == ["--oversubscribe"]
    nodes = tmp_path / "nodes"
    nodes.write_text("127.0.0.2\n127.0.0.2\n127.0.0.3\n")
    monkeypatch.setenv("PBS_NODEFILE", str(nodes))
    monkeypatch.setenv("BNN_DATA_DIR", "/some/data")
    assert launcher.hosts() == ["127.0.0.2", "127.0.0.3"] and launcher.spans_hosts()
    # On the way to 127.0.0.2 this machine's own address is one of the loopback's.
    assert launcher.address().startswith("127.0.0.")
    exported = launcher.options(4)
    assert {"IPP_CONNECTION_INFO", "PYTHONPATH", "OMP_NUM_THREADS", "BNN_DATA_DIR"} <= set(exported)
    assert "OMPI_MCA_btl" not in exported


CHILD = """
import sys, time
from cluster import engines
ranks = engines.start(2)
ranks["x"] = sys.argv[1]
ranks.apply_async(time.sleep, 300) if sys.argv[1] == "killed" else None
print(engines._current.folder, flush=True)
for line in sys.stdin:
    print(ranks["x"], flush=True)
"""


def test_two_notebooks_do_not_meet_and_a_killed_one_leaves_nothing():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name in ("killed", "other")
    ]
    try:
        folders = [Path(child.stdout.readline().strip()) for child in children]
        assert folders[0] != folders[1]
        families = [psutil.Process(child.pid).children(recursive=True) for child in children]
        assert all(len(family) >= 7 for family in families)
        children[0].kill()
        children[0].wait()
        assert_gone(families[0], seconds=20)
        assert not folders[0].exists()
        children[1].stdin.write("\n")
        children[1].stdin.flush()
        assert children[1].stdout.readline() == "['other', 'other']\n"
        children[1].stdin.close()
        assert children[1].wait(30) == 0
        assert_gone(families[1], seconds=10)
        assert not folders[1].exists()
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdout.close()
