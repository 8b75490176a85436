"""Copies of the sites' job scripts with small numbers, and programs in place of their training command."""

import re

from helpers import ROOT

FOLDER = ROOT / "cluster" / "sites"
NAMED = ("PROJECT", "course")  # replaced everywhere, as an editor does it
# Each line is written in one call, so that the lines of several ranks do not mix.
RANK = """
import os, sys
from mpi4py import MPI
os.write(1, f"{MPI.COMM_WORLD.size} {os.environ['OMP_NUM_THREADS']} {sys.argv[1:]}\\n".encode())
"""
# Waits for the signal and ends with the training command's exit status.
STOPPED = """
import os, signal, sys, time
from mpi4py import MPI
received = []
signal.signal(signal.SIGUSR1, lambda *_: received.append(1))
until = time.monotonic() + 60
while not received and time.monotonic() < until:
    time.sleep(0.1)
os.write(1, f"rank {MPI.COMM_WORLD.rank} received {bool(received)}\\n".encode())
MPI.COMM_WORLD.Barrier()
sys.exit(os.EX_TEMPFAIL)
"""


def shortened(course, machine, name, *edits):
    """Write a copy of a script to the folder `course`, with each pattern in `edits` replaced. Return its path."""
    text = (FOLDER / machine / name).read_text()
    for old, new in edits:
        text, count = re.subn(old, new, text)
        assert count, old
    path = course / name
    path.write_text(text)
    path.chmod(0o755)
    return path
