"""One progress bar for the whole project, which knows when to be silent."""

import os
import sys

from tqdm import tqdm

# What Open MPI, MPICH and PMI launchers, PMIx, Horovod's Gloo, Slurm and aprun call a process's rank.
RANK_VARIABLES = (
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "PMIX_RANK",
    "HOROVOD_RANK",
    "SLURM_PROCID",
    "ALPS_APP_PE",
)


def bar(iterable=None, total=None, desc="", initial=0, disable=False):
    """A tqdm over `iterable` (or of `total` steps, moved by .update), removed when it is done.

    Silent when $BNN_QUIET is set to anything but 0 (batch runs set it), on every rank but the first, and
    where nobody watches: when stderr is no terminal and this is no notebook.
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
        # JupyterLab paints stderr red, which a progress bar is not.
        file=sys.stdout if notebook else sys.stderr,
        dynamic_ncols=not notebook,
    )


def launched_rank():
    """This process's rank as its launcher tells it, without starting MPI; None where there is no launcher."""
    found = (os.environ[name] for name in RANK_VARIABLES if os.environ.get(name, "").isdigit())
    return next((int(rank) for rank in found), None)


def _in_notebook():
    """Whether a Jupyter kernel runs this process. A plain IPython terminal is not one."""
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")
