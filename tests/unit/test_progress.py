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
        (True, {"SLURM_PROCID": "3"}, False),
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
