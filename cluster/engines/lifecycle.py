"""The MPI engines of a notebook: started, mended and stopped by one call.

    from cluster import engines
    ranks = engines.start(2)     # or again after a failure: what is up and well is returned as it is
    ranks["x"]                   # x of each rank, in order of rank; %%px cells run on all of them
    engines.stop()

One notebook has one set of engines. Nothing of it outlives the notebook, not even one that is killed.
"""

import atexit
import importlib.util
import os
import shutil
import tempfile
import time
from pathlib import Path

from cluster.engines.controller import AGAIN, EngineError, Running, bring_up, end, well
from helpers import ROOT

PROFILE = ROOT / "cluster" / "profile_mpi"

_current = None


def missing(horovod=True):
    """What is lacking here for multi-rank cells, and how to get it: a list of sentences, empty if nothing.

    Args:
      horovod: ask for Horovod too, and not only for what engines need.
    """
    if importlib.util.find_spec("ipyparallel") is None:
        return ["ipyparallel is not installed: `make run` sets up an environment that has it."]
    from cluster import launcher

    lacking = []
    if launcher.program() is None:
        lacking.append(
            f"{launcher.name()} is not on the PATH: `make setup HOROVOD=1` brings Open MPI; "
            "on a supercomputer load the site's MPI module."
        )
    for module, title in [("mpi4py", "mpi4py"), ("horovod", "Horovod")][: 2 if horovod else 1]:
        if importlib.util.find_spec(module) is None:
            lacking.append(
                f"{title} is not installed: `make setup HOROVOD=1` adds it, which needs a C++ compiler "
                "(see 'Set-up' in the README)."
            )
    return lacking


def skip_rest_if_missing():
    """Where ranks cannot be had, say what is lacking, and let the cells below this one do nothing.

    A batch run over all notebooks can so be made without MPI, and does not count this one as failed. It
    needs a cell of its own: what stands behind it in the same cell is run.
    """
    lacking = missing()
    if lacking:
        print("This notebook needs MPI ranks and Horovod. The cells below do nothing.", *lacking, sep="\n")
        # get_ipython is a builtin of every notebook.
        get_ipython().input_transformers_cleanup.append(lambda lines: ["pass\n"])  # noqa: F821


def start(n=None, timeout=60, profile_dir=PROFILE):
    """Give this notebook `n` MPI engines, and its `%%px` cells to them.

    Engines that are up, answer within ten seconds and are `n` are returned as they are, with what they
    hold in memory; engines that are dead, silent, or another number are replaced.

    Args:
      n: how many ranks; None takes $BNN_RANKS, or 2.
      timeout: seconds within which they must have come up.
      profile_dir: folder with the IPython profile; only its *_config.py files are used.

    Returns:
      An ipyparallel DirectView of the ranks in order of rank, whose calls block. Engine numbers are MPI
      ranks. As a context manager it stops the engines at its end.

    Raises:
      EngineError: something is not installed, or controller or engines did not come up in time; with the
        end of the log. Nothing is left running.
    """
    global _current
    n = int(os.environ.get("BNN_RANKS", 2)) if n is None else n
    if n < 1:
        raise ValueError(f"engines.start needs 1 rank or more, not {n}")
    if _current and _current.n == n and well(_current):
        return _current.ranks
    stop()
    lacking = missing(horovod=False)
    if lacking:
        raise EngineError("MPI engines cannot be started here.\n" + "\n".join(lacking))
    running = Running(n, _private_folder(Path(profile_dir)))
    try:
        bring_up(running, time.monotonic() + timeout)
    except BaseException:
        end(running)
        raise
    _current = running
    return running.ranks


def stop():
    """Stop this notebook's engines and controller, and remove their files; nothing if there are none."""
    global _current
    running, _current = _current, None
    if running:
        running.lost = running.lost or f"The MPI engines were stopped. {AGAIN}"
        running.gone.set()
        end(running)


def _private_folder(profile_dir):
    """A copy of the profile for this run and its owner alone: keys and logs never meet another run's."""
    from cluster import launcher
    from cluster import supervise as leash

    configs = sorted(profile_dir.glob("*_config.py"))
    if not configs:
        raise EngineError(f"{profile_dir} is no IPython profile: expected ipcluster_config.py in it")
    base = os.environ.get("BNN_RUNTIME_DIR")
    try:
        if not base and launcher.spans_hosts():
            # Engines on other hosts read it too.
            base = ROOT / "build"
            base.mkdir(exist_ok=True)
        elif not base and os.access(os.environ.get("XDG_RUNTIME_DIR", ""), os.W_OK):
            base = os.environ["XDG_RUNTIME_DIR"]
        folder = Path(tempfile.mkdtemp(prefix=leash.PREFIX, dir=base))
        for config in configs:
            shutil.copy(config, folder)
    except OSError as error:
        raise EngineError(
            f"No folder can be made for the engines' files: {error}. Set BNN_RUNTIME_DIR to a folder "
            "where you can write, and that all of the job's hosts see."
        ) from error
    return folder


atexit.register(stop)
