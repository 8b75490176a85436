"""cluster.submit: the scripts that it writes, what it refuses, and what schedulers say of a job."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from cluster import submit
from cluster.jobs import states
from helpers import ROOT, files

import psutil
import pytest

from tests.support import fake_launchers

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A jobs folder of the test's own, here and in what it starts; no scheduler of the machine's is on the PATH."""
    monkeypatch.setattr(states, "FOLDER", tmp_path / "jobs")
    monkeypatch.setenv("BNN_JOBS_DIR", str(tmp_path / "jobs"))
    return tmp_path / "jobs"


def dry(capsys, what, *arguments):
    assert submit.main([what, "--dry-run", *map(str, arguments)]) == 0
    return capsys.readouterr().out


ASKED = ["--nodes", 2, "--ranks-per-node", 4, "--threads", 2, "--time", "1:02:03", "--queue", "q", "--account", "acc"]


def test_the_script_for_cobalt(capsys):
    text = dry(capsys, "train", "--scheduler", "cobalt", *ASKED, "--attribute", "attrs=mcdram=cache:numa=quad")
    options = dict(fake_launchers.directives("cobalt", text))
    assert options.items() >= {
        "--nodecount": "2", "--time": "63", "--queue": "q", "--project": "acc", "--attrs": "mcdram=cache:numa=quad",
        "--cwd": str(ROOT), "--jobname": "bnn-train",
    }.items()  # fmt: skip
    # Cobalt hands over no variables by itself.
    assert f"PATH={os.environ['PATH']}" in shlex.split(text, comments=True)


@pytest.mark.parametrize(
    ("kind", "more", "chunks"),
    [
        ("pbs", ["--attribute", "select=mem=3gb"], "select=2:ncpus=8:mpiprocs=4:mem=3gb"),
        ("pbs", ["--system", "crux"], "select=2:system=crux"),
        ("pbs", ["--attribute", "select=system=crux"], "select=2:system=crux"),
        ("pbs_classic", [], "nodes=2:ppn=8"),
    ],
)
def test_the_script_for_pbs(capsys, kind, more, chunks):
    wanted = ["--filesystems", "home:eagle", "--attribute", "l=naccelerators=0", "--attribute", "r=y", *more]
    text = dry(capsys, "notebooks", "--scheduler", kind, *ASKED, *wanted)
    options = fake_launchers.directives("pbs", text)
    resources = [value for name, value in options if name == "-l"]
    assert chunks in resources and "walltime=1:2:3" in resources
    assert "filesystems=home:eagle,naccelerators=0" in resources
    assert {("-q", "q"), ("-A", "acc"), ("-N", "bnn-notebooks"), ("-r", "y")} <= set(options)
    assert not any("system=crux" in value for name, value in options if name != "-l")
    if kind == "pbs":
        assert "place=scatter" in resources
        assert "place=scatter:exclhost" in dry(capsys, "notebooks", "--scheduler", kind, "--exclusive", *more)
    # Where PBS gives whole nodes, its node file no longer counts the ranks.
    words = shlex.split(text, comments=True)
    assert {"BNN_RANKS_PER_NODE=4", "OMP_NUM_THREADS=2"} <= set(words)


def test_the_script_for_slurm(capsys):
    text = dry(capsys, "train", "--scheduler", "slurm", *ASKED, "--attribute", "qos=debug", "--", "--model=a b")
    for line in ("nodes=2", "ntasks-per-node=4", "cpus-per-task=2", "time=1:2:3", 'partition="q"', 'account="acc"'):
        assert f"#SBATCH --{line}\n" in text
    assert '#SBATCH --qos="debug"\n' in text and "exclusive" not in text
    more = ["--exclusive", "--attribute", "requeue", "--attribute", "constraint=gpu&hbm80g"]
    flags = dry(capsys, "train", "--scheduler", "slurm", *more).splitlines()
    assert {"#SBATCH --exclusive", "#SBATCH --requeue", '#SBATCH --constraint="gpu&hbm80g"'} <= set(flags)
    words = shlex.split(text, comments=True)
    start = words.index("cluster.launcher")
    python = words[start - 2]
    assert words[start + 1 : start + 8] == ["-n", "8", python, "-m", "helpers.train", "--num_intra=2", "--model=a b"]
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr


def test_a_dry_run_submits_nothing_and_shows_this_machine_s_command(capsys, folder):
    words = shlex.split(dry(capsys, "notebooks", "--scheduler", "local", "--time", 3, "--", "--only", "06"))
    assert words[words.index("cluster.jobs.wrapper") + 2] == "180"
    assert words[-5:] == ["cluster.run_notebooks", "--ranks", "2", "--only", "06"]
    assert not list(folder.glob("*/job.json"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--nodes", "0"], "argument --nodes: expected 1 or more, found '0'"),
        (["train", "--ranks-per-node", "x"], "expected 1 or more, found 'x'"),
        (["train", "--time", "1h"], "expected H:MM:SS, H:MM or minutes, found '1h'"),
        (["train", "--time", "0:00"], "expected H:MM:SS"),
        (["train", "--time", "1:75:00"], "expected H:MM:SS"),
        (["train", "--scheduler", "lsf"], "invalid choice: 'lsf'"),
        (["train", "--scheduler", "slurm", "--attribute", "qos"], "--attribute 'qos': expected NAME=VALUE"),
        (["train", "--scheduler", "slurm", "--attribute", "qos=a b"], "expected NAME=VALUE without spaces"),
        (["train", "--scheduler", "local", "--nodes", "2"], "this machine is one node"),
        (["train", "--scheduler", "local", "--queue", "debug"], "this machine is one node without queues"),
        (["train", "--scheduler", "slurm", "--attribute", "partitoin=x"], "slurm has no option partitoin"),
        (["train", "--scheduler", "slurm", "--attribute", "nodes=3"], "slurm has no option nodes that can be set here"),
        (["train", "--scheduler", "pbs", "--attribute", "filesystems=home:eagle"], "written l=filesystems=home:eagle"),
        (["train", "--scheduler", "cobalt", "--attribute", "qos=debug"], "cobalt has no option qos"),
        (["train", "--scheduler", "cobalt", "--exclusive"], "it always gives whole nodes"),
        (["train", "--scheduler", "slurm", "--filesystems", "home"], "slurm has no --filesystems"),
        (["train", "--scheduler", "pbs_classic", "--system", "crux"], "pbs_classic has no --system"),
        (["train", "--scheduler", "local", "--exclusive"], "this machine is one node"),
        (["notebooks", "--profile", "quick"], "unrecognized arguments: --profile"),
        (["status", "17"], "No job 17 was submitted from here. Those in "),
        (["cancel", "17"], "No job 17 was submitted from here"),
        (["sing"], "invalid choice: 'sing'"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(capsys, arguments, said):
    try:
        status = submit.main(arguments)
    except SystemExit as stop:
        status = stop.code
    out, errors = capsys.readouterr()
    assert status == 2 and out == ""
    assert errors.startswith("cluster.submit: ") and said in errors and errors.count("\n") == 1


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "cobalt"])
def test_a_scheduler_that_is_not_here_is_told(monkeypatch, capsys, folder, tmp_path, scheduler):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert submit.main(["train", "--scheduler", scheduler]) == 2
    assert f"{states.PROGRAMS[scheduler][0]}, " in capsys.readouterr().err
    assert not list(folder.glob("*train*"))


def test_a_scheduler_that_does_not_answer_is_told(monkeypatch, capsys, tmp_path, folder):
    for program in states.PROGRAMS["slurm"]:
        (tmp_path / program).write_text("#!/bin/sh\nexec sleep 60\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(states, "ANSWER", 0.5)
    assert submit.main(["train"]) == 2
    assert "sbatch did not answer within 0 seconds: the scheduler may be down" in capsys.readouterr().err
    assert not list(folder.glob("*train*"))
    assert not [child for child in psutil.Process().children() if "sleep" in child.name()]


def note(path, **values):
    files.write(path, json.dumps(values))


def a_job(folder, scheduler, began=None, ended=None, limit=600, **more):
    """A job's folder as its wrapper left it. Times are seconds from now."""
    place = folder / "a"
    place.mkdir(parents=True)
    record = {"id": "4000", "scheduler": scheduler, "seconds": limit, "submitted": time.time() - 5000}
    if began is not None:
        note(place / "began.json", pid=1, created=0, host="x", time=time.time() + began)
    if ended is not None:
        word = {"status": 0, "signal": 0, "over": False, **more}
        note(place / "ended.json", time=time.time() + ended, **word)
    return record, place


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"began": -900, "ended": -800}, states.DONE),
        ({"began": -900, "ended": -800, "status": 2}, states.FAILED),
        ({"began": -900, "ended": -800, "status": 75}, states.STOPPED),
        ({"began": -900, "ended": -305, "status": 143, "signal": 15}, states.OVER),
        ({"began": -900, "ended": -800, "status": 143, "signal": 15}, states.CANCELLED),
        ({"began": -900}, states.OVER),
        ({"began": -90}, states.LOST),
        ({}, states.LOST),
    ],
)
def test_what_became_of_a_job_that_cobalt_has_forgotten(folder, tmp_path, monkeypatch, more, word):
    own = fake_launchers.put(tmp_path / "bin", "cobalt", "aprun", "")
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    record, place = a_job(folder, "cobalt", **more)
    assert states.state(record, place).word == word
    (place / "cancelled").touch()
    if word != states.DONE and word != states.FAILED and "ended" not in more:
        assert states.state(record, place).word == states.CANCELLED


@pytest.mark.parametrize(
    ("job", "word"),
    [
        ({"job_state": "Q", "comment": "Not Running: not enough nodes"}, states.QUEUED),
        ({"job_state": "R"}, states.RUNNING),
        ({"job_state": "F", "Exit_status": 0}, states.DONE),
        ({"job_state": "F", "Exit_status": 1}, states.FAILED),
        ({"job_state": "F", "Exit_status": -29}, states.OVER),
        ({"job_state": "F", "Exit_status": 271, "resources_used": {"walltime": "00:10:04"}}, states.OVER),
        ({"job_state": "F", "Exit_status": 271, "resources_used": {"walltime": "00:01:04"}}, states.CANCELLED),
        ({"job_state": "F", "comment": "deleted before it ran"}, states.CANCELLED),
    ],
)
def test_what_pbs_says_of_a_job(folder, monkeypatch, job, word):
    record, place = a_job(folder, "pbs", began=-900)
    monkeypatch.setattr(states, "ask", lambda words, known: json.dumps({"Jobs": {"4000.x": job}}))
    assert states.state(record, place).word == word


@pytest.mark.parametrize(
    ("said", "word"),
    [("PENDING Reason=Resources", states.QUEUED), ("COMPLETING Reason=None", states.RUNNING),
     ("OUT_OF_MEMORY Reason=OutOfMemory", states.FAILED), ("NODE_FAIL Reason=NodeDown", states.FAILED),
     ("DEADLINE Reason=DeadLine", states.OVER), ("CANCELLED Reason=None", states.CANCELLED)],
)  # fmt: skip
def test_what_slurm_says_of_a_job(folder, monkeypatch, said, word):
    record, place = a_job(folder, "slurm", began=-900)
    monkeypatch.setattr(states, "ask", lambda words, known: f"JobId=4000 JobState={said} Dependency=(null)")
    assert states.state(record, place).word == word


def test_the_wrapper_asks_for_a_stop_ahead_of_the_end(folder):
    """Through cluster.supervise, to a command that takes a second to end by itself."""
    record, place = a_job(folder, "local")
    leave = "import signal, sys, time\nsignal.signal(signal.SIGUSR1, lambda *_: (time.sleep(1), sys.exit(75)))\n"
    words = [sys.executable, "-c", leave + "time.sleep(60)"]
    wrapped = [sys.executable, "-m", "cluster.jobs.wrapper", place, "0", "2", *words]
    done = subprocess.run(wrapped, cwd=ROOT, timeout=40)
    assert done.returncode == 75
    assert json.loads((place / "ended.json").read_text())["signal"] == 0
    now = states.state(record, place)
    assert now.word == states.STOPPED and "submit it again with --resume" in now.detail


def test_numbers_that_a_scheduler_gives_again_mean_the_latest_job(folder):
    for name, when in (("a", 1.0), ("b", 2.0)):
        (folder / name).mkdir(parents=True)
        note(folder / name / "job.json", id="7", scheduler="slurm", seconds=60, submitted=when)
    assert states.find("7")[1] == Path(folder / "b")
