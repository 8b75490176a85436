"""Start, replace and stop the MPI engines of a notebook, and say what is missing where they cannot be started."""

import atexit
import importlib.util
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import launcher, supervise
from cluster.engines import controller
from cluster.engines.controller import EngineError, EngineSet
from helpers import ROOT

if TYPE_CHECKING:
    from cluster.engines.view import EngineView

PROFILE = ROOT / "cluster" / "profile_mpi"

_current: "EngineView | None" = None


def missing(horovod: bool = True) -> list[str]:
    """List what multi-rank cells need and this machine lacks.

    Args:
      horovod: ask for Horovod as well. Engines themselves do not need it.

    Returns:
      One sentence for each missing part, which also says how to install it. The list is empty if nothing is missing.
    """
    if importlib.util.find_spec("ipyparallel") is None:
        return ["ipyparallel is not installed: `make run` sets up an environment that has it."]
    absent = []
    if launcher.program() is None:
        absent.append(
            f"{launcher.name()} is not on the PATH: `make setup HOROVOD=1` installs Open MPI; "
            "on a supercomputer, load the site's MPI module."
        )
    for module, title in [("mpi4py", "mpi4py"), ("horovod", "Horovod")][: 2 if horovod else 1]:
        if importlib.util.find_spec(module) is None:
            absent.append(
                f"{title} is not installed: `make setup HOROVOD=1` installs it and needs a C++ compiler "
                "(see 'Set-up' in the README)."
            )
    return absent


def skip_rest_if_missing() -> None:
    """Print what is missing for MPI ranks and Horovod, and let all later cells of this notebook do nothing.

    Without MPI, a batch run of all notebooks then does not count this notebook as failed. If nothing is missing,
    nothing happens. Call it in a cell of its own, because the rest of the calling cell still runs.
    """
    absent = missing()
    if absent:
        print("This notebook needs MPI ranks and Horovod. The cells below do nothing.", *absent, sep="\n")
        from IPython import get_ipython

        get_ipython().input_transformers_cleanup.append(lambda lines: ["pass\n"])


def start(n: int | None = None, timeout: float = 60, profile_dir: Path | str = PROFILE) -> "EngineView":
    """Start `n` MPI engines for this notebook, and let its `%%px` cells run on them.

    If the notebook already has `n` engines and they answer within ten seconds, they are returned unchanged, with all
    that their memory holds. Engines that are dead, do not answer, or differ in number are replaced.

    Args:
      n: number of ranks. None takes $BNN_RANKS, or 2 if that is not set.
      timeout: seconds within which all engines must respond.
      profile_dir: folder with an IPython profile, of which only the files *_config.py are used.

    Returns:
      An `ipyparallel.DirectView` of the ranks in order of rank, whose calls block. The number of an engine is its MPI
      rank. As a context manager, the view stops the engines at the end of the block.

    Raises:
      ValueError: `n` is less than 1, or $BNN_LAUNCHER is not the name of a launcher.
      AllocationError: the scheduler's variables of this job are wrong.
      EngineError: a program or package is missing, or the controller or the engines did not start in time. The message
        holds the end of their log. No process is left running.
    """
    global _current
    asked = os.environ.get("BNN_RANKS", "2") if n is None else n
    n = int(asked) if str(asked).isdecimal() else 0
    if n < 1:
        raise ValueError(f"engines.start needs a whole number of ranks, 1 or more, not {asked!r}")
    if _current and _current.engine_set.n == n and controller.responds(_current.engine_set):
        return _current
    stop()
    absent = missing(horovod=False)
    if absent:
        raise EngineError("MPI engines cannot be started here.\n" + "\n".join(absent))
    from cluster.engines.view import EngineView, activate

    engine_set = EngineSet(n, _private_profile(Path(profile_dir)))
    try:
        controller.start(engine_set, time.monotonic() + timeout)
        view = EngineView(engine_set, stop)
        activate(view)
    except BaseException:
        controller.stop(engine_set)
        raise
    _current = view
    return view


def stop() -> None:
    """Stop this notebook's engines and their controller, and remove their files. Without engines, do nothing."""
    global _current
    view, _current = _current, None
    if view:
        controller.stop(view.engine_set)


def _private_profile(profile_dir: Path) -> Path:
    """Copy the profile to a new folder that only this user can read, so that runs never share keys or logs.

    Raises:
      EngineError: `profile_dir` is not a profile, or the folder cannot be written.
    """
    configs = sorted(profile_dir.glob("*_config.py"))
    if not configs:
        raise EngineError(f"{profile_dir} is no IPython profile: expected ipcluster_config.py in it")
    base: str | Path | None = os.environ.get("BNN_RUNTIME_DIR")
    try:
        if not base and launcher.spans_hosts():
            # Engines on other hosts have to read the folder too.
            base = ROOT / "build"
            (ROOT / "build").mkdir(exist_ok=True)
        elif not base and os.access(os.environ.get("XDG_RUNTIME_DIR", ""), os.W_OK):
            base = os.environ["XDG_RUNTIME_DIR"]
        folder = Path(tempfile.mkdtemp(prefix=supervise.PREFIX, dir=base))
        for config in configs:
            shutil.copy(config, folder)
    except OSError as error:
        raise EngineError(
            f"The folder for the engines' files cannot be created: {error}. Set BNN_RUNTIME_DIR to a folder that you "
            "can write to and that all hosts of the job can read."
        ) from error
    return folder


atexit.register(stop)
