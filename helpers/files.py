"""Write files whole, read and write tables, and lock a folder for one run at a time. Standard library only."""

import contextlib
import csv
import errno
import fcntl
import io
import itertools
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

NAME = ".lock"
RENEWAL_SECONDS = 10.0  # how often a holder renews its mark
WATCH_SECONDS = 25.0  # how long a mark stands still until its holder counts as dead: two renewals and some seconds
PAUSE_SECONDS = 0.2  # between two attempts to take a lock


def expanded(path: str | Path) -> Path:
    """Return the path with `~` or `~user` at its start replaced by that home folder; `./~` is a folder of that name.

    Raises:
      ValueError: The home folder is not known.
    """
    text = os.fspath(path)
    found, user = Path(os.path.expanduser(text)), text.partition("/")[0]
    if str(found).startswith("~") and user != str(found).partition("/")[0]:
        return Path.cwd() / found  # ./~, which is then the same when it is expanded again
    if str(found).startswith("~") or (user == "~" and os.environ.get("HOME") == ""):
        said = f"{text}: the home folder of {user} is not known, because HOME or an entry in passwd is missing. "
        raise ValueError(f"{said}Write the path in full, or ./{text}.")
    return found


def write(path: str | Path, text: str, mode: int | None = None) -> None:
    """Replace the content of a file completely or not at all, even if the process dies or the disk is full.

    Args:
      path: The file, in a folder that exists.
      text: Its new content, which is written as UTF-8 with its line ends as they are.
      mode: Permissions of the file, such as 0o600. None takes those that the umask leaves to a new file.

    Raises:
      OSError: The file cannot be written. The error names it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # The system's error on a full disk does not name the file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write mappings with the same keys as a CSV table with a header, by `write`."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())


def read_csv(path: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a table that `write_csv` wrote, with numbers as int or float and all else as str.

    Raises:
      ValueError: The file is so damaged that it is no longer a table. A changed digit cannot be detected.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            # DictReader gives None for a value that a line lacks, and puts surplus values under the key None.
            return [{key: _value(value) for key, value in row.items()} for row in csv.DictReader(file)]
    except (TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _value(text: str) -> int | float | str:
    for kind in () if re.fullmatch(r"0\d+|\d+e\d+", text) else (int, float):  # no number, but a commit, looks so
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


@contextlib.contextmanager
def held(folder: str | Path, wait: float = 0) -> Iterator[None]:
    """Hold a folder for this process alone; within the process, as many times as you like.

    The lock is a POSIX record lock on the file `.lock`. The kernel releases it when the process ends, so a killed
    process blocks nobody. NFS, and Lustre mounted with `flock`, share it between nodes. Because other mounts keep
    locks to one node without an error, the holder also writes its host and process into the file, renews this mark
    every RENEWAL_SECONDS, and removes it at the end. A process that gets the lock and finds the mark of another host
    watches it for WATCH_SECONDS. If the mark moves, the folder is in use. If it does not, its holder was killed. No
    clocks are compared. On such a mount, two nodes that start in the same moment can both get the folder.

    A process that closes any other descriptor of `.lock` loses the record lock until the next renewal, so do not open
    that file. A forked child does not inherit the lock.

    Args:
      folder: The folder, which is created with permissions 0700 if it does not exist.
      wait: Seconds to wait for another holder to finish.

    Raises:
      BlockingIOError: Another process holds the folder. The message names that process.
      OSError: The folder cannot be written to.
    """
    folder = Path(folder).resolve()
    lock = _LOCKS.setdefault(folder, _FolderLock(folder))
    lock.enter(wait)
    try:
        yield
    finally:
        lock.leave()


class _FolderLock:
    """The lock of one folder, which all threads of this process share through one descriptor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reset()

    def reset(self) -> None:
        self.guard, self.users, self.descriptor, self.ended = threading.Lock(), 0, -1, threading.Event()

    def enter(self, wait: float) -> None:
        with self.guard:
            if not self.users:
                self.descriptor, self.ended = _take(self.folder, wait), threading.Event()
                threading.Thread(target=self._renew, args=(self.ended,), daemon=True).start()
            self.users += 1

    def leave(self) -> None:
        with self.guard:
            if not self.users:  # in a child that was forked inside the `with` block of its parent
                return
            self.users -= 1
            if not self.users:
                self.ended.set()
                with contextlib.suppress(OSError):
                    os.ftruncate(self.descriptor, 0)
                os.close(self.descriptor)

    def _renew(self, ended: threading.Event) -> None:
        for count in itertools.count(1):
            if ended.wait(RENEWAL_SECONDS):
                return
            with self.guard:
                if ended.is_set():
                    return
                # This changes nothing unless the lock was lost, as when something else closed a copy of the file.
                _try_lock(self.descriptor)
                _write_mark(self.descriptor, count)


_LOCKS: dict[Path, _FolderLock] = {}


def _forget() -> None:
    """Drop what a forked child has copied from its parent: the kernel has not copied the locks."""
    for lock in _LOCKS.values():
        if lock.users:
            os.close(lock.descriptor)
        lock.reset()


os.register_at_fork(after_in_child=_forget)


def _take(folder: Path, wait: float) -> int:
    """Return the descriptor of the folder's lock file, locked and marked."""
    end = time.monotonic() + wait
    seen, since = "", 0.0  # the mark of another host, and since when it stands still
    while True:
        # NFS shows what another node has written only to those who open the file anew.
        descriptor = _open(folder)
        error, mark = _try_lock(descriptor), _read_mark(descriptor)
        holder = mark.partition("\n")[0]
        busy = error is not None and error.errno in (errno.EACCES, errno.EAGAIN)
        # Where this host's processes see each other's locks, its mark without a lock is that of a killed process.
        doubtful = not busy and bool(mark) and (error is not None or not holder.endswith(f" on {socket.gethostname()}"))
        if doubtful and mark != seen:
            busy = bool(seen)
            if not busy:
                said = f"{folder} has the mark of a run that may not have ended ({holder}); watching it for "
                print(f"{said}{WATCH_SECONDS:g} s.", file=sys.stderr, flush=True)
            seen, since = mark, time.monotonic()
        if not busy and not (doubtful and time.monotonic() < since + WATCH_SECONDS):
            if error is not None:
                said = f"{folder}: this file system has no locks ({error.strerror}). "
                print(f"{said}Make sure that only one run uses the folder.", file=sys.stderr, flush=True)
            _write_mark(descriptor, 0)
            return descriptor
        os.close(descriptor)
        if busy and time.monotonic() >= end:
            raise BlockingIOError(
                f"{folder} is in use by a run that has not ended ({holder or 'another process'}): "
                "wait for its end, or give another folder, which for a notebook is BNN_RUNS_DIR"
            )
        time.sleep(PAUSE_SECONDS)


def _open(folder: Path) -> int:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OSError(f"cannot write in {folder} ({error.strerror}): give another folder for the output") from error


def _try_lock(descriptor: int) -> OSError | None:
    """Return None if this process has the lock now, and otherwise the reason."""
    try:
        # flock, unlike lockf, stays within one node on some network file systems, and forked children keep it.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error
    return None


def _read_mark(descriptor: int) -> str:
    with contextlib.suppress(OSError):
        return os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
    return ""


def _write_mark(descriptor: int, count: int) -> None:
    """Replace the mark by one of the same length, so that nobody reads a part of it."""
    mark = f"process {os.getpid()} on {socket.gethostname()}\nrenewed {count:09} times\n".encode()
    with contextlib.suppress(OSError):  # The lock also holds without a mark, as when the disk is full.
        os.pwrite(descriptor, mark, 0)
        os.ftruncate(descriptor, len(mark))
        os.fsync(descriptor)
