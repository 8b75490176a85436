"""What befalls a training run: ranks killed and stalled, two runs in one folder, full disks, folders not to be written.

Each fault is brought about for real, tells in one line what happened and what to do, and leaves a run to go on with.
"""

import os
import signal
import subprocess
import sys

from helpers import ROOT
from helpers.files import read_csv
from helpers.runs import Checkpoints
from helpers.train import command as train

import numpy as np
import pytest
import tensorflow as tf

from tests.support.training import STEPS, Run, arguments, checkpoints, told

pytestmark = pytest.mark.usefixtures("fresh_flags")


@pytest.mark.timeout(900)
def test_ranks_killed_and_stalled_end_all_and_the_run_goes_on_bit_for_bit(tmp_path, capsys, undisturbed):
    """One folder, three times the same command: a rank is killed, then one is stopped, then nothing happens."""
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    with Run(tmp_path / "run") as run:
        ranks = run.ranks()
        ranks[1].kill()
        status, _, text = run.end()
        reached = max(checkpoints(tmp_path / "run"))
        assert status != 0 and 100 <= reached < STEPS
        (line,) = told(text)
        assert f"rank 1 (process {ranks[1].pid} on " in line and "killed" in line
        assert f"--resume goes on from the checkpoint of step {reached}" in line
    with Run(tmp_path / "run", "--resume", HOROVOD_STALL_CHECK_TIME_SECONDS="8") as run:
        ranks = run.ranks()
        ranks[1].send_signal(signal.SIGSTOP)
        # A second run in the folder, while the first is at work there.
        reached = max(checkpoints(tmp_path / "run"))
        assert train.main(arguments(tmp_path / "run", "--overwrite")) == 1
        (refused,) = told(capsys.readouterr().err)
        assert f"in use by a run that has not ended (process {ranks[0].pid} on " in refused
        assert max(checkpoints(tmp_path / "run")) >= reached
        status, seconds, text = run.end()
        assert status != 0 and seconds > 4
        (line,) = told(text)
        assert f"rank 1 (process {ranks[1].pid} on " in line and "is stopped" in line and "--resume" in line
    assert max(checkpoints(tmp_path / "run")) < STEPS
    with Run(tmp_path / "run", "--resume") as run:
        status, _, text = run.end(280)
        assert status == 0, text[-3000:]
    folders = (tmp_path / "run", undisturbed)
    readers = [tf.train.load_checkpoint(str(folder / "BNN_FC_flip/checkpoints")) for folder in folders]
    names = [name for name in readers[0].get_variable_to_shape_map() if name.startswith(("model", "optimizer"))]
    assert len(names) > 15
    for name in names:
        assert np.array_equal(readers[0].get_tensor(name), readers[1].get_tensor(name)), name


def test_the_death_of_rank_0_is_told_by_another_rank(tmp_path):
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    with Run(tmp_path / "run") as run:
        ranks = run.ranks()
        ranks[0].kill()
        status, _, text = run.end()
    (line,) = told(text)
    assert status != 0 and f"rank 0 (process {ranks[0].pid} on " in line and "killed" in line and "--resume" in line


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_lost_under_horovodrun(tmp_path, fault):
    """Over Gloo the others see the connection break, or hear nothing for a time."""
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    launcher = ("horovodrun", "--gloo", "-n", "2", "-H", "localhost:2", "--network-interface", "lo")
    with Run(tmp_path / "run", launcher=launcher, HOROVOD_STALL_CHECK_TIME_SECONDS="4") as run:
        ranks = run.ranks()
        ranks[1].send_signal(fault)
        status, _, text = run.end()
        assert status != 0
        (line,) = told(text)
        assert f"rank 1 (process {ranks[1].pid} on " in line and "--resume goes on" in line


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB; a checkpoint of CNN_FC is 0.6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_costs_nothing_but_the_steps_since_the_last_checkpoint(small_disk, tmp_path, capsys, monkeypatch):
    def run(folder, steps, *more):
        given = ["--model=CNN_FC", f"--output={folder}", "--batch_size=500", "--num_monte_carlo=1"]
        return train.main([*given, f"--iterations={steps}", "--checkpoint_every=4", *more])

    assert run(small_disk, 8) == 0
    before = {path: path.read_bytes() for path in (small_disk / "CNN_FC" / "checkpoints").glob("step-*")}
    ballast, room = small_disk / "ballast", 300_000  # for the tables and half a checkpoint
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    ballast.write_bytes(bytes(free - room))
    capsys.readouterr()
    assert run(small_disk, 16, "--resume") == 1
    (line,) = told(capsys.readouterr().err)
    assert "no checkpoint can be written" in line and "o space left" in line
    # The disk may also fill up while the run trains.
    monkeypatch.setattr(Checkpoints, "_try_writing", lambda *_: None)
    assert run(small_disk, 16, "--resume") == 1
    (line,) = told(capsys.readouterr().err)
    assert "step 12 cannot be written" in line and "o space left" in line and "step-8 is whole: make room" in line
    assert before == {path: path.read_bytes() for path in (small_disk / "CNN_FC" / "checkpoints").glob("step-*")}
    assert [row["step"] for row in read_csv(small_disk / "CNN_FC" / "steps.csv")][:2] == [4, 8]
    ballast.unlink()
    assert run(small_disk, 16, "--resume") == 0 and run(tmp_path / "whole", 16) == 0
    readers = [
        tf.train.load_checkpoint(str(folder / "CNN_FC/checkpoints")) for folder in (small_disk, tmp_path / "whole")
    ]
    for name in readers[0].get_variable_to_shape_map():
        if name.startswith(("model", "optimizer")):
            assert np.array_equal(readers[0].get_tensor(name), readers[1].get_tensor(name)), name


def test_a_folder_that_cannot_be_written_to_is_named(small_disk, capsys):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert train.main(["--model=CNN_FC", f"--output={small_disk}", "--iterations=1"]) == 1
    (line,) = told(capsys.readouterr().err)
    assert f"cannot write in {small_disk}/CNN_FC (Read-only file system): give another folder" in line


def test_a_home_that_cannot_be_written_to_is_no_matter(small_disk, tmp_path):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "MPLCONFIG"))}
    given = [f"--output={tmp_path}", "--model=BNN_FC_flip", "--iterations=1", "--num_monte_carlo=1", "--plotting"]
    done = subprocess.run(
        [sys.executable, "-m", "helpers.train", *given], cwd=ROOT, env={**environment, "HOME": str(small_disk)},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "BNN_FC_flip").glob("weights_*.png"))
