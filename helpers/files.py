"""One run at a time in a folder: a lock that ends with its holder, were it by SIGKILL."""

import contextlib
import csv
import errno
import fcntl
import io
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


def write(path, text):
    """Replace the file's content whole or not at all, even if the process dies or the disk is full."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # A write on a full disk does not say of what file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_csv(path, rows):
    """Write dicts with the same keys as CSV with a header, atomically."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())


def _value(text):
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def read_csv(path):
    """The rows of a CSV as `write_csv` wrote them: numbers as numbers, words as words.

    Raises:
      ValueError: the file is damaged so far that it is no table any more. A changed digit cannot be told.
    """
    try:
        with open(path, newline="") as file:
            # DictReader puts what a line lacks under its key as None, and what it has too much under None.
            return [{key: _value(value) for key, value in row.items()} for row in csv.DictReader(file)]
    except (TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
