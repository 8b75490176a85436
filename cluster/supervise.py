"""Run a command that must not outlive the process that asked for it.

`python -m cluster.supervise PARENT FOLDER COMMAND...` runs COMMAND until it ends, until SIGTERM, or until
process PARENT is gone, were it by SIGKILL; then it ends COMMAND and all that COMMAND started. If PARENT
is gone, nobody else will remove its FOLDER of connection files, so that goes too. It hands SIGUSR1 on to COMMAND.
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

PREFIX = "bnn-engines-"  # of the folders that may be removed: never one that a person made
PAUSE = 0.2  # seconds between looks at parent and child
GRACE = 3.0  # seconds from SIGTERM to SIGKILL
_SET_PARENT_DEATH_SIGNAL = 1  # linux/prctl.h
_SET_CHILD_SUBREAPER = 36


def command(folder):
    """The words to put before a command's, so that it ends with the calling process."""
    return [sys.executable, "-m", "cluster.supervise", str(os.getpid()), str(folder)]


def _prctl(option, value):
    """Linux's prctl; elsewhere nothing, where only a SIGKILL of the leash itself goes unnoticed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _end(child):
    """SIGTERM to `child`, SIGKILL to whatever of it is left when the time of grace is over."""
    if child.poll() is None:
        child.terminate()
    # As subreaper we are the parent of what lost its own: nobody escapes by outliving mpiexec.
    family = psutil.Process().children(recursive=True)
    _, left = psutil.wait_procs(family, timeout=GRACE)
    for process in {*left, *psutil.Process().children(recursive=True)}:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=GRACE)


def main(parent, folder, *words):
    """Run `words` on the leash of process `parent`; returns the exit status to give."""
    _prctl(_SET_CHILD_SUBREAPER, 1)
    told = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    asked = []
    signal.signal(signal.SIGUSR1, lambda number, frame: asked.append(number))
    try:
        child = subprocess.Popen(words, preexec_fn=lambda: _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM))
    except OSError as error:
        print(f"{words[0]} cannot be started: {error}", file=sys.stderr)
        return 127
    while child.poll() is None and not told and os.getppid() == int(parent):
        while asked:
            child.send_signal(asked.pop())
        time.sleep(PAUSE)
    _end(child)
    if os.getppid() != int(parent) and Path(folder).name.startswith(PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
    return child.wait()


if __name__ == "__main__":
    status = main(*sys.argv[1:])
    sys.exit(status if status >= 0 else 128 - status)
