"""Run a command that must not outlive the process that asked for it.

`python -m cluster.supervise PARENT FOLDER COMMAND...` runs COMMAND until it ends, until this process receives SIGTERM,
or until process PARENT no longer exists, even if PARENT was ended by SIGKILL. It then ends COMMAND and every process
that COMMAND has started. If PARENT no longer exists, nobody else will remove its FOLDER of connection files, so that
folder is removed too. SIGUSR1 is passed on to COMMAND.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

PREFIX = "bnn-engines-"  # of the folders that may be removed, so that no folder made by a person ever is
GRACE = 3.0  # seconds from SIGTERM to SIGKILL
_POLL_SECONDS = 0.2  # between two checks of parent and child
_SET_PARENT_DEATH_SIGNAL = 1  # linux/prctl.h
_SET_CHILD_SUBREAPER = 36


def command(folder: Path | str) -> list[str]:
    """Return the words to put before a command, so that it ends when the calling process ends.

    Args:
      folder: removed if the calling process is killed and the folder's name begins with `PREFIX`.
    """
    return [sys.executable, "-m", "cluster.supervise", str(os.getpid()), str(folder)]


def _prctl(option: int, value: int) -> None:
    """Call Linux's prctl. Other systems lack it, and there a SIGKILL of this process itself goes unnoticed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _stop(child: subprocess.Popen) -> None:
    """Send SIGTERM to `child`, and SIGKILL to all its descendants that still run after `GRACE` seconds."""
    if child.poll() is None:
        child.terminate()
    # This process is a subreaper and so becomes the parent of orphans, such as ranks that outlive mpiexec.
    descendants = psutil.Process().children(recursive=True)
    _, alive = psutil.wait_procs(descendants, timeout=GRACE)
    for process in {*alive, *psutil.Process().children(recursive=True)}:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=GRACE)


def main(parent: str, folder: str, *words: str) -> int:
    """Run the command `words` until it ends, SIGTERM arrives, or the parent no longer exists.

    Args:
      parent: process number of the parent of this process.
      folder: removed if the parent no longer exists and the folder's name begins with `PREFIX`.
      words: the command.

    Returns:
      The exit status of the command, the negative signal number if a signal ended it, or 127 if it cannot be started.
    """
    _prctl(_SET_CHILD_SUBREAPER, 1)
    terminations: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: terminations.append(number))
    to_pass_on: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: to_pass_on.append(number))
    try:
        child = subprocess.Popen(words, preexec_fn=lambda: _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM))
    except OSError as error:
        print(f"{words[0]} cannot be started: {error}", file=sys.stderr)
        return 127
    while child.poll() is None and not terminations and os.getppid() == int(parent):
        while to_pass_on:
            child.send_signal(to_pass_on.pop())
        time.sleep(_POLL_SECONDS)
    _stop(child)
    if os.getppid() != int(parent) and Path(folder).name.startswith(PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
    return child.wait()


if __name__ == "__main__":
    status = main(*sys.argv[1:])
    sys.exit(status if status >= 0 else 128 - status)
