"""The job scripts of the sites, made small, and what stands in for their training command."""

import re

from helpers import ROOT

FOLDER = ROOT / "cluster" / "sites"
NAMED = ("PROJECT", "course")  # everywhere, as an editor does it
# One write for a line, so that those of several ranks do not mix.
RANK = """
import os, sys
from mpi4py import MPI
os.write(1, f"{MPI.COMM_WORLD.size} {os.environ['OMP_NUM_THREADS']} {sys.argv[1:]}\\n".encode())
"""
# What the training command does of the signal, as far as the scripts are concerned.
STOPPED = """
import os, signal, sys, time
from mpi4py import MPI
told = []
signal.signal(signal.SIGUSR1, lambda *_: told.append(1))
until = time.monotonic() + 60
while not told and time.monotonic() < until:
    time.sleep(0.1)
os.write(1, f"rank {MPI.COMM_WORLD.rank} told {bool(told)}\\n".encode())
MPI.COMM_WORLD.Barrier()
sys.exit(os.EX_TEMPFAIL)
"""


def shortened(course, machine, name, *edits):
    """A copy of a script with small numbers in it."""
    text = (FOLDER / machine / name).read_text()
    for old, new in edits:
        text, count = re.subn(old, new, text)
        assert count, old
    path = course / name
    path.write_text(text)
    path.chmod(0o755)
    return path
