"""Real MPI ranks for tests."""

import os
import subprocess

from helpers import ROOT


def mpiexec(size, *command, timeout=180, **environment):
    """Run `command` on `size` real ranks and return the completed process; a hang is a failure."""
    cores = len(os.sched_getaffinity(0))
    binding = ["--bind-to", "core"] if size <= cores else ["--oversubscribe", "--bind-to", "none"]
    return subprocess.run(
        ["mpiexec", "-n", str(size), *binding, *command],
        cwd=ROOT, env={**os.environ, **environment}, timeout=timeout, capture_output=True, text=True,
    )  # fmt: skip
