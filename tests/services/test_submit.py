"""Jobs of cluster.submit that run: on this machine, and through stand-ins for Cobalt and PBS."""

import json
import os
import re
import shlex
import subprocess
import sys
import time

from cluster import launcher
from helpers import ROOT

import psutil
import pytest

from tests.support import fake_launchers
from tests.support.notebooks import notebook
from tests.support.processes import assert_gone

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A jobs folder of the test's own, in what it starts."""
    monkeypatch.setenv("BNN_JOBS_DIR", str(tmp_path / "jobs"))
    return tmp_path / "jobs"


def command(*arguments, **environment):
    words = [sys.executable, "-m", "cluster.submit", *map(str, arguments)]
    return subprocess.run(
        words, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def number(done):
    return re.search(r"job (\S+)", done.stdout)[1]


def wait_for(path, seconds=60):
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.1)


def test_jobs_of_this_machine_end_as_what_they_were(tmp_path, folder):
    fine = notebook(tmp_path, "01_fine.ipynb", work="print('fine')")
    bad = notebook(tmp_path, "02_bad.ipynb", work="1 / 0")
    mark = tmp_path / "going"
    long = notebook(tmp_path, "03_long.ipynb", wait=f"open({str(mark)!r}, 'w')\nimport time\ntime.sleep(300)")

    def run(path, *arguments):
        return command("notebooks", "--scheduler", "local", *arguments, "--", path, "--output", tmp_path / path.stem)

    done = run(fine, "--wait", 90)
    assert done.returncode == 0 and re.search(r"local job \d+: done \(after \d+ seconds\)", done.stdout), done.stdout
    assert (tmp_path / "01_fine" / "notebooks" / "01_fine.ipynb").is_file()
    failed = run(bad, "--wait", 90)
    assert failed.returncode == 1 and ": failed (with status 1," in failed.stdout
    assert "  02_bad.ipynb: cell work: ZeroDivisionError: division by zero\n" in failed.stdout
    late = run(long, "--time", "0:00:09", "--wait", 60)
    assert late.returncode == 1 and ": ran out of time (its limit of 9 seconds)" in late.stdout

    mark.unlink(missing_ok=True)
    going = run(long)
    assert going.returncode == 0
    assert ": running" in command("status", number(going)).stdout
    wait_for(mark)
    began = next(
        word | {"folder": str(path.parent)}
        for path in folder.glob("*/began.json")
        if psutil.pid_exists((word := json.loads(path.read_text()))["pid"])
    )
    shown = shlex.split(run(long, "--dry-run").stdout)
    command_line = psutil.Process(began["pid"]).cmdline()
    # env and its variables have given way to the command. Each job has a folder of its own.
    shown = [re.sub(f"^{folder}/.*", began["folder"], word) for word in shown[-len(command_line) :]]
    assert shown == command_line
    family = [psutil.Process(began["pid"]), *psutil.Process(began["pid"]).children(recursive=True)]
    assert len(family) >= 4
    ended = command("cancel", number(going))
    assert ended.returncode == 0 and ": cancelled (after" in ended.stdout
    assert_gone(family)
    assert ": cancelled" in command("status", number(going)).stdout
    assert ": done" in command("status", number(done)).stdout


@pytest.mark.parametrize("scheduler", ["cobalt", "pbs"])
def test_a_job_goes_through_the_stand_in_of_a_scheduler(tmp_path, monkeypatch, scheduler):
    program = {"cobalt": "aprun", "pbs": "mpiexec"}[scheduler]
    own = fake_launchers.put(tmp_path / "bin", scheduler, program, launcher.program() or "")
    fine = notebook(tmp_path, "01_fine.ipynb", work="import os\nprint(os.environ['BNN_RANKS'])")
    long = notebook(tmp_path, "03_long.ipynb", wait="import time\ntime.sleep(300)")
    request = ["--scheduler", scheduler, "--nodes", 2, "--time", 5]
    done = command("notebooks", *request, "--wait", 90, "--", fine, "--output", tmp_path / "out", **own)
    assert done.returncode == 0 and f"{scheduler} job {number(done)}: done" in done.stdout, done.stdout + done.stderr
    bad = command("notebooks", *request, "--wait", 90, "--", tmp_path / "absent.ipynb", **own)
    assert bad.returncode == 1 and ": failed (with status 2," in bad.stdout, bad.stdout
    # The scheduler knows it too, so that what depends on the job does not start.
    assert (tmp_path / "bin" / f"{number(bad)}.status").read_text() == "2\n"
    going = command("notebooks", *request, "--", long, "--output", tmp_path / "out", **own)
    ended = command("cancel", number(going), **own)
    assert ended.returncode == 0 and ": cancelled" in ended.stdout, ended.stdout
