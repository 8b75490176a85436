"""One run at a time in a folder: a lock that ends with its holder, were it by SIGKILL."""

import contextlib
import errno
import fcntl
import os
import socket
import sys
from pathlib import Path

NAME = ".lock"
_HELD = {}  # folder -> [open file, how often this process has taken it]


@contextlib.contextmanager
def held(folder):
    """Hold the folder for this process's run; within one process, as often as it likes.

    The kernel gives the lock back whenever the process ends, on network file systems too (NFS within its lease), so
    there is no stale one to remove. Where a file system has no locks, a line on stderr says so.

    Args:
      folder: made if absent, its owner's alone.
    Raises:
      BlockingIOError: another process holds it; the message names that process.
      OSError: the folder cannot be written to.
    """
    folder = Path(folder).resolve()
    if folder not in _HELD:
        _HELD[folder] = [_lock(folder), 0]
    _HELD[folder][1] += 1
    try:
        yield
    finally:
        _HELD[folder][1] -= 1
        if not _HELD[folder][1]:
            _HELD.pop(folder)[0].close()


def _lock(folder):
    """The lock file, open and locked."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = open(folder / NAME, "a+")
    except OSError as error:
        raise OSError(f"cannot write in {folder} ({error.strerror}): give another folder for the output") from error
    try:
        # Not flock, which some network file systems keep to one node.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise BlockingIOError(
                f"{folder} is in use by a run that has not ended ({holder}): wait for its end, or give another folder"
            ) from error
        print(f"{folder}: no lock can be had here ({error.strerror}); mind that only one run uses it", file=sys.stderr)
    with contextlib.suppress(OSError):  # a full disk: the lock holds without the name
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    return file
