"""What became of a job: what its wrapper writes down, and what schedulers say of it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from cluster.jobs import states
from helpers import ROOT, files

import pytest

from tests.support import fake_launchers

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "jobs"


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


@pytest.mark.parametrize("stop", ["2", "0"])
def test_the_wrapper_asks_for_a_stop_ahead_of_the_end_or_when_it_is_asked_itself(folder, stop):
    """Through cluster.supervise, to a command that takes a second to end by itself."""
    record, place = a_job(folder, "local")
    leave = "import signal, sys, time\nsignal.signal(signal.SIGUSR1, lambda *_: (time.sleep(1), sys.exit(75)))\n"
    words = [sys.executable, "-c", leave + "print('ready', flush=True)\ntime.sleep(60)"]
    wrapped = subprocess.Popen([sys.executable, "-m", "cluster.jobs.wrapper", place, "0", stop, *words], cwd=ROOT)
    until = time.monotonic() + 20
    while stop == "0" and not ((place / "output.txt").exists() and (place / "output.txt").read_text()):
        assert time.monotonic() < until
        time.sleep(0.1)
    if stop == "0":
        wrapped.send_signal(signal.SIGUSR1)
    assert wrapped.wait(timeout=40) == 75
    assert json.loads((place / "ended.json").read_text())["signal"] == 0
    now = states.state(record, place)
    assert now.word == states.STOPPED and "submit it again with --resume" in now.detail


def test_the_status_of_a_stop_is_that_of_the_training():
    from helpers.distributed import watchdog  # here, because it brings in TensorFlow

    assert states.STATUS == watchdog.STATUS


def test_numbers_that_a_scheduler_gives_again_mean_the_latest_job(folder, monkeypatch):
    monkeypatch.setattr(states, "FOLDER", folder)
    for name, when in (("a", 1.0), ("b", 2.0)):
        (folder / name).mkdir(parents=True)
        note(folder / name / "job.json", id="7", scheduler="slurm", seconds=60, submitted=when)
    assert states.find("7")[1] == Path(folder / "b")
