"""Test what `cluster.submit` reports if a scheduler is down, hangs or refuses, or if a job's record is damaged."""

import json
import os
import shutil
import subprocess
import sys
import time

from cluster import submit
from cluster.jobs import states
from helpers import ROOT

import pytest

from tests.support import slurm_machine
from tests.support.processes import assert_gone, children


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(states, "FOLDER", tmp_path / "jobs")
    return tmp_path / "jobs"


def submitted(folder, number, scheduler="slurm"):
    """Make the folder of a submitted job, as `cluster.submit` leaves it."""
    place = folder / f"job{number}"
    place.mkdir(parents=True)
    record = {"id": number, "scheduler": scheduler, "seconds": 600, "submitted": time.time() - 60}
    (place / "job.json").write_text(json.dumps(record))
    return place


@pytest.mark.skipif(not shutil.which("sbatch"), reason="no Slurm here (apt-get install slurm-client)")
def test_a_slurm_that_is_down_is_told_by_every_command(tmp_path, folder):
    """Run Slurm's real commands without its daemon. They retry for 9 and 18 seconds."""
    slurm_machine._write(tmp_path, nodes=1, pretended="")
    environment = {**os.environ, "SLURM_CONF": str(tmp_path / "slurm.conf"), "BNN_JOBS_DIR": str(folder)}
    environment["PYTHONPATH"] = str(ROOT)
    submitted(folder, "17")
    words = [sys.executable, "-m", "cluster.submit"]
    commands = [
        subprocess.Popen([*words, *arguments], env=environment, stdout=-1, stderr=-1, text=True)
        for arguments in (["train"], ["status", "17"], ["cancel", "17"])
    ]
    for one in commands:
        out, said = one.communicate(timeout=states.ANSWER + 60)
        assert one.returncode == 2 and out == ""
        assert said.startswith("cluster.submit: ") and said.count("\n") == 1
        assert "Unable to contact slurm controller" in said or "did not answer within 20 seconds" in said, said
    assert [path.name for path in folder.iterdir() if path.name != "psij"] == ["job17"]
    assert not (folder / "job17" / "cancelled").exists()


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "cobalt"])
def test_a_scheduler_that_hangs_is_given_up(tmp_path, folder, monkeypatch, capsys, scheduler):
    for program in states.PROGRAMS[scheduler]:
        (tmp_path / program).write_text("#!/bin/sh\nexec sleep 60\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(states, "ANSWER", 0.5)
    submitted(folder, "17", scheduler)
    for what in ("status", "cancel"):
        assert submit.main([what, "17"]) == 2
        said = capsys.readouterr().err
        assert "did not answer within 0 seconds: the scheduler may be down" in said and said.count("\n") == 1
    assert_gone(children())


def test_a_cancellation_that_is_refused_leaves_no_mark(tmp_path, folder, monkeypatch, capsys):
    place = submitted(folder, "17")
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho JobId=17 JobState=RUNNING Reason=None Dependency=x\n")
    (tmp_path / "scancel").write_text("#!/bin/sh\necho 'scancel: error: Access denied' >&2; exit 1\n")
    for program in ("scontrol", "scancel"):
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert submit.main(["cancel", "17"]) == 2
    assert "scancel: error: Access denied" in capsys.readouterr().err
    assert not (place / "cancelled").exists()


def test_a_damaged_record_of_a_job_is_named(folder, capsys):
    (submitted(folder, "17") / "job.json").write_text('{"id": "17", ')
    assert submit.main(["status", "17"]) == 2
    said = capsys.readouterr().err
    assert "job17/job.json is damaged" in said and "remove the job's folder" in said and said.count("\n") == 1
