"""The progress bar shows where somebody looks at it."""

import fcntl
import os
import pty
import struct
import sys
import termios

from helpers import progress

import pytest


@pytest.mark.parametrize(
    "terminal, variables, shown",
    [
        (True, {}, True),
        (True, {"BNN_QUIET": "0", "OMPI_COMM_WORLD_RANK": "0"}, True),
        (False, {}, False),
        (True, {"BNN_QUIET": "1"}, False),
        (True, {"OMPI_COMM_WORLD_RANK": "1"}, False),
        (True, {"SLURM_PROCID": "3", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}, False),
        (True, {"SLURM_PROCID": "3"}, True),
    ],
)
def test_bar_shows_on_the_first_rank_s_terminal_only(terminal, variables, shown, monkeypatch):
    for name in (*progress.RANK_VARIABLES, "BNN_QUIET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty() if terminal else os.pipe()
    if terminal:  # A new one has no rows, and tqdm then draws nothing.
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(ours, "rb", buffering=0) as reader, os.fdopen(theirs, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        assert list(progress.bar(range(3), desc="epochs")) == [0, 1, 2]
        stderr.write("end\n")
        stderr.flush()
        written = reader.read(65536)
    assert (b"epochs" in written) == shown
    assert written.startswith(b"end") != shown


STEP = {"SLURM_JOB_ID": "11", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}


@pytest.mark.parametrize(
    "variables, rank",
    [
        ({"SLURM_JOB_ID": "11", "SLURM_PROCID": "0", "SLURM_NTASKS": "64"}, None),  # a batch script
        (STEP, 0),
        (STEP | {"SLURM_STEP_ID": "4294967291"}, None),  # the batch step
        (STEP | {"SLURM_STEP_ID": "4294967290"}, None),  # salloc's shell, which may inherit a number of tasks
        (STEP | {"SLURM_STEP_NUM_TASKS": "1"}, None),  # srun --pty bash
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "PMIX_RANK": "0"}, None),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "PMI_RANK": "0", "PMI_SIZE": "1"}, None),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "PMI_RANK": "3", "PMI_SIZE": "4"}, 3),  # mpiexec in such a shell
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_RANK": "1", "PMIX_RANK": "1"}, 1),
        ({"PMIX_RANK": "2"}, 2),
        ({"PMI_RANK": "5"}, 5),
        ({"SLURM_PROCID": "", "HOROVOD_RANK": "1"}, 1),
        ({}, None),
    ],
)
def test_a_launched_rank_is_one_of_several_that_a_launcher_started(variables, rank, monkeypatch):
    for name in (*progress.RANK_VARIABLES, "PMI_SIZE", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert progress.launched_rank() == rank
