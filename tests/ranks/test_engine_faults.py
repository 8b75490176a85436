"""Engines that die, do not answer or cannot start. Each test has engines of its own and leaves nothing behind."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from cluster import engines, launcher
from cluster.engines import controller
from helpers import ROOT

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

from tests.support.processes import assert_gone, children, engine_ranks, find

MISSING = engines.missing(horovod=False)
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(MISSING), reason="; ".join(MISSING)),
]


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    """The folder for the engines' files, which is empty after each test, as no process is left either."""
    engines.stop()
    before = {process.pid for process in children()}
    folder = tmp_path / "runtime"
    folder.mkdir()
    monkeypatch.setenv("BNN_RUNTIME_DIR", str(folder))
    yield folder
    engines.stop()
    assert_gone([process for process in children() if process.pid not in before], seconds=10)
    assert list(folder.iterdir()) == []


def altered_profile(folder, name, line):
    """Copy the course's profile to `folder`, and append a line to one of its files."""
    shutil.copytree(engines.PROFILE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    with open(folder / name, "a") as file:
        file.write(f"\n{line}\n")
    # What an earlier controller left behind must not matter.
    (folder / "security").mkdir()
    (folder / "security" / "ipcontroller-client.json").write_text("stale")
    return folder


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
    "restart": "ranks = engines.start()\nranks.apply_sync(lambda: 8)",
    "stop": "engines.stop(); engines.stop()",
}


def test_a_notebook_with_a_killed_rank_starts_its_engines_again(tmp_path, monkeypatch):
    monkeypatch.setenv("BNN_DATA_DIR", "/some/data")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = [nbformat.v4.new_code_cell(source, id=name) for name, source in CELLS.items()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": str(tmp_path)}}
    began, took = {}, {}
    NotebookClient(
        notebook,
        timeout=60,
        kernel_name="python3",
        allow_errors=True,
        resources=resources,
        extra_arguments=["--log-level=CRITICAL"],
        on_cell_start=lambda cell, cell_index: began.update({cell.id: time.monotonic()}),
        on_cell_executed=lambda cell, **_: took.update({cell.id: time.monotonic() - began[cell.id]}),
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
    assert shown["restart"][0].data["text/plain"] == "[8, 8]"
    assert shown["stop"] == []


@pytest.mark.parametrize("victim", ["controller", "rank"])
def test_a_dead_controller_and_a_silent_rank_end_the_waiting_call(tmp_path, monkeypatch, victim):
    # A stopped rank is missed sooner here, and its launcher has nothing to report.
    profile = altered_profile(
        tmp_path / "profile", "ipcontroller_config.py", "c.HeartMonitor.max_heartmonitor_misses = 12"
    )
    monkeypatch.setattr(controller, "_REPORT_SECONDS", 0.5)
    ranks = engines.start(2 if victim == "rank" else 1, profile_dir=profile)
    if victim == "controller":
        process, blow, said = find("ipyparallel.controller")[0], signal.SIGKILL, "controller died"
    else:
        process, blow, said = engine_ranks()[0], signal.SIGSTOP, "no longer answers"
    everything = children()
    began = time.monotonic()
    threading.Timer(1, process.send_signal, [blow]).start()
    with pytest.raises(engines.EngineError, match=rf"(?s){said}.*engines\.start\(\)"):
        ranks.apply_sync(time.sleep, 100)
    assert time.monotonic() - began < 30
    assert_gone(everything, seconds=15)


@pytest.mark.parametrize(
    ("file", "line", "timeout", "said"),
    [
        ("ipcontroller_config.py", "raise SystemExit('no luck today')", 60, "Controller stopped"),
        ("ipengine_config.py", "raise SystemExit('no luck today')", 60, "Engine set stopped"),
        ("ipengine_config.py", "import time; time.sleep(300)", 15, "no answer in 15 seconds"),
    ],
)
def test_a_start_that_fails_says_why(tmp_path, file, line, timeout, said):
    profile = altered_profile(tmp_path / "profile", file, line)
    with pytest.raises(engines.EngineError, match=said) as failure:
        engines.start(1, timeout=timeout, profile_dir=profile)
    assert "SystemExit" not in line or "no luck today" in str(failure.value)
    assert f"engines.start(timeout={2 * timeout})" in str(failure.value)


@pytest.mark.parametrize("place", ["registration", "hb_ping", "iopub", "mux"])
def test_a_port_that_another_program_has_taken_is_replaced_by_another(tmp_path, place):
    # The first controller has one of its ports taken: that of its hub, of the heartbeat, of the printed output or of
    # the queue for single engines. A start without a second controller would wait, or leave out what that port serves.
    channels = ("registration", "control", "mux", "task", "iopub", "hb_ping", "hb_pong")
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((launcher.address(), 0))) for _ in channels]
        ports = [taken.getsockname()[1] for taken in sockets]
        for name, free in zip(channels, sockets, strict=True):
            if name != place:
                free.close()
        tried = tmp_path / "tried"
        line = (
            f"import pathlib\ntried = pathlib.Path({str(tried)!r})\n"
            f"if not tried.exists(): c.IPController.engine_ports = {ports}\ntried.open('a').write('again ')"
        )
        profile = altered_profile(tmp_path / "profile", "ipcontroller_config.py", line)
        ranks = engines.start(2, profile_dir=profile)
        assert ranks.apply_sync(lambda: 7) == [7, 7]
    assert tried.read_text() == "again again "


def test_a_start_without_launcher_folder_or_profile_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("BNN_LAUNCHER", "aprun")
    with pytest.raises(engines.EngineError, match="aprun is not on the PATH"):
        engines.start()
    monkeypatch.delenv("BNN_LAUNCHER")
    with pytest.raises(engines.EngineError, match="no IPython profile"):
        engines.start(profile_dir=tmp_path)
    monkeypatch.setenv("BNN_RUNTIME_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(engines.EngineError, match="BNN_RUNTIME_DIR"):
        engines.start()


def test_a_job_s_launcher_is_used_and_another_number_of_ranks_replaces_the_engines(tmp_path, monkeypatch):
    # Without Slurm, a script named srun writes down its arguments and starts the ranks with mpiexec.
    mpiexec = launcher.program()
    script = tmp_path / "srun"
    script.write_text(
        f'#!/bin/sh\nprintf "%s " "$@" > {tmp_path}/arguments\n'
        f'[ "$1 $3 $4" = "-n --cpu-bind=cores --kill-on-bad-exit=1" ] || exit 2\nranks=$2\nshift 4\n'
        f'exec {mpiexec} --oversubscribe -n "$ranks" "$@"\n'
    )
    script.chmod(0o755)
    one = engines.start(1)
    one["x"] = 5
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("BNN_LAUNCHER", "srun")
    with engines.start(2) as two:
        assert (tmp_path / "arguments").read_text().startswith("-n 2 ")
        assert two.targets == [0, 1] and "x" not in two.apply_sync(dir)[0]
        with pytest.raises(engines.EngineError, match=r"stopped.*engines\.start\(\)"):
            one["x"]
    with pytest.raises(engines.EngineError, match="stopped"):
        two["x"]


NOTEBOOK = """
import sys, time
from cluster import engines
ranks = engines.start(2 if sys.argv[1] == "killed" else 1)
ranks["x"] = sys.argv[1]
ranks.apply_async(time.sleep, 300) if sys.argv[1] == "killed" else None
print(ranks.engine_set.folder, flush=True)
for line in sys.stdin:
    print(ranks["x"], flush=True)
"""


def test_two_notebooks_are_separate_and_a_killed_one_leaves_nothing():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    notebooks = []
    with contextlib.ExitStack() as stack:
        for name in ("killed", "other"):
            words = [sys.executable, "-c", NOTEBOOK, name]
            notebooks.append(
                stack.enter_context(subprocess.Popen(words, stdin=-1, stdout=-1, text=True, env=environment))
            )
            stack.callback(notebooks[-1].kill)
        folders = [Path(notebook.stdout.readline().strip()) for notebook in notebooks]
        assert folders[0] != folders[1] and all(folder.is_dir() for folder in folders)
        families = [psutil.Process(notebook.pid).children(recursive=True) for notebook in notebooks]
        assert len(families[0]) >= 7 and len(families[1]) >= 5
        notebooks[0].kill()
        notebooks[0].wait()
        assert_gone(families[0], seconds=20)
        assert not folders[0].exists()
        notebooks[1].stdin.write("\n")
        notebooks[1].stdin.flush()
        assert notebooks[1].stdout.readline() == "['other']\n"
        notebooks[1].stdin.close()
        assert notebooks[1].wait(30) == 0
        assert_gone(families[1], seconds=10)
        assert not folders[1].exists()
