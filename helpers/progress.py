"""The progress bar of the course, and the rank that a launcher gave this process. No TensorFlow."""

import io
import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

# A process's rank in the environments of Open MPI, MPICH and PMI launchers, PMIx, Horovod's Gloo, Slurm and aprun.
RANK_VARIABLES = (
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "PMIX_RANK",
    "HOROVOD_RANK",
    "SLURM_PROCID",
    "ALPS_APP_PE",
)
# Slurm keeps its last step numbers for batch scripts and interactive shells. Version 22.05 sets none in a batch script.
SLURM_RESERVED = 0xFFFFFFF0


def escape_unprintable() -> None:
    """Let stdout and stderr escape the letters that the locale's encoding lacks, where print would raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def bar(
    iterable: Iterable[Any] | None = None,
    total: int | None = None,
    desc: str = "",
    initial: int = 0,
    disable: bool = False,
) -> tqdm:
    """Return a tqdm progress bar, which disappears when it is complete.

    The bar is silent if $BNN_QUIET is set to anything but 0 (batch runs set it), on every rank except the first, and
    if nobody watches, which means that stderr is not a terminal and this process is not a notebook's kernel.

    Args:
      iterable: What to iterate over. None if the caller moves the bar with `update`.
      total: The number of steps, if `iterable` does not tell it.
      desc: A short text in front of the bar.
      initial: The number of steps that were completed earlier.
      disable: True for no bar at all.
    """
    notebook = _in_notebook()
    quiet = os.environ.get("BNN_QUIET", "0") not in ("", "0")
    watched = notebook or sys.stderr.isatty()
    return tqdm(
        iterable,
        total=total,
        desc=desc,
        initial=initial,
        disable=disable or quiet or (launched_rank() or 0) > 0 or not watched,
        leave=False,
        # JupyterLab shows stderr on a red background, as if a progress bar were an error.
        file=sys.stdout if notebook else sys.stderr,
        dynamic_ncols=not notebook,
    )


def launched_rank() -> int | None:
    """Return the rank that the launcher gave this process, without starting MPI. None if there is no launcher.

    Slurm sets SLURM_PROCID also where it starts one process only, as for a batch script or an interactive shell. There
    it may set a rank of PMI or PMIx as well. A process of such a script or shell is alone.
    """
    alone = {
        "PMI_RANK": os.environ.get("PMI_SIZE") == "1",
        "PMIX_RANK": "SLURM_JOB_ID" in os.environ and not _in_slurm_step(),
        "SLURM_PROCID": not _in_slurm_step(),
    }
    found = (name for name in RANK_VARIABLES if os.environ.get(name, "").isdigit() and not alone.get(name))
    return next((int(os.environ[name]) for name in found), None)


def _in_slurm_step() -> bool:
    """Return whether srun has started this process as one of several tasks, tested with Slurm 22.05."""
    step, tasks = (os.environ.get(name, "") for name in ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"))
    return step.isdigit() and int(step) < SLURM_RESERVED and tasks.isdigit() and int(tasks) > 1


def _in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook. A plain IPython terminal is not one."""
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")
