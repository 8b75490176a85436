"""What several test files share: data that is the same everywhere, and real MPI ranks."""

import os
import subprocess

from helpers import ROOT

os.environ["BNN_OFFLINE"] = "1"  # tests see the same stand-ins whether or not there is a network
os.environ.pop("BNN_DATA_DIR", None)


def mpiexec(size, *command, timeout=180, **environment):
    """Run `command` on `size` real ranks and return the completed process; a hang is a failure."""
    cores = len(os.sched_getaffinity(0))
    binding = ["--bind-to", "core"] if size <= cores else ["--oversubscribe", "--bind-to", "none"]
    return subprocess.run(
        ["mpiexec", "-n", str(size), *binding, *command],
        cwd=ROOT, env={**os.environ, **environment}, timeout=timeout, capture_output=True, text=True,
    )  # fmt: skip
