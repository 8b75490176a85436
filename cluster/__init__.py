"""How the course runs on more than one process: MPI engines for notebooks, and batch runs of notebooks."""

from pathlib import Path

# Not taken from helpers, which imports TensorFlow: what only starts processes should start at once.
ROOT = Path(__file__).resolve().parents[1]
