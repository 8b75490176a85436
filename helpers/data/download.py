"""Fetch the official files of a data set: checked before use, put in place whole, by one process at a time."""

import hashlib
import os
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any

from helpers import files
from helpers.data.readers import DataError, shown
from helpers.data.records import Download, Record
from helpers.progress import bar

RESPONSE_SECONDS = 3  # from the request to the first byte; a server that takes longer counts as out of reach
STALL_SECONDS = 20  # without a byte in the middle of a transfer
TOTAL_SECONDS = 1800  # for one file, and for waiting while another process fetches it


class Unavailable(Exception):
    """The files cannot be had from here although nothing is wrong with them, for example without a network."""


def fetch(record: Record, folder: Path, quiet: bool = False) -> None:
    """Download what a folder lacks of a data set. One of several processes does it, and the others wait.

    Args:
      record: The data set, from `catalogue.DATASETS`.
      folder: The data folder, which is made if it does not exist.
      quiet: Show no progress bar.

    Raises:
      Unavailable: No server answers within RESPONSE_SECONDS, the folder cannot be written, or no URL is known.
      DataError: A server answers, but what it sends is incomplete or is not the file.
    """
    if not record.downloads:
        raise Unavailable("no URL is known")
    start = time.monotonic()
    url = record.downloads[0].url
    # Without a network nothing is written, not even a lock, and no process waits for the attempt of another one.
    _within(RESPONSE_SECONDS, url, lambda: _connect(url))
    left = max(0.5, RESPONSE_SECONDS - (time.monotonic() - start))
    try:
        folder.mkdir(parents=True, exist_ok=True)  # with the permissions of the umask, which the lock would not give
        with _alone(folder, record.name):
            for file in record.downloads:
                if not (folder / file.path).exists():
                    _fetch_file(file, folder, left, quiet)
    except OSError as error:
        raise Unavailable(f"{shown(folder)} cannot be written ({error.strerror})") from error


def _connect(url: str) -> None:
    """Open a connection to the server, or to the proxy in front of it, and close it again."""
    target = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(target.scheme)
    if proxy and not urllib.request.proxy_bypass(target.hostname or ""):
        target = urllib.parse.urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    port = target.port or {"https": 443}.get(target.scheme, 80)
    socket.create_connection((target.hostname, port), timeout=RESPONSE_SECONDS).close()


def _within(seconds: float, url: str, function: Callable[[], Any]) -> Any:
    """Return function(), or give up after `seconds`, because a name look-up has no time limit of its own."""
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = function()
        except (OSError, HTTPException, ValueError) as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if "value" not in outcome:
        reason = outcome.get("error", f"no answer in {RESPONSE_SECONDS} s")
        raise Unavailable(f"{urllib.parse.urlsplit(url).hostname}: {getattr(reason, 'reason', reason)}")
    return outcome["value"]


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Hold the folder. A process that waited for one whose download failed raises the same error.

    Otherwise hundreds of ranks would repeat the failure, one after the other. A failed download leaves a note in the
    folder, and a process that finds another note than before it waited has waited for that download.
    """
    note = folder / f".{name}.failed"

    def read() -> str:
        with suppress(OSError):
            return note.read_text()
        return ""

    before = read()
    try:
        with files.held(folder, wait=TOTAL_SECONDS):
            _, kind, message = (read() + "\n\n").split("\n", 2)
            if message.strip() and read() != before:
                raise (Unavailable if kind == "Unavailable" else DataError)(message.strip())
            try:
                yield
            except (Unavailable, DataError) as error:
                with suppress(OSError):
                    files.write(note, f"{uuid.uuid4().hex}\n{type(error).__name__}\n{error}\n")
                raise
            note.unlink(missing_ok=True)
    except BlockingIOError as error:
        raise DataError(
            f"Another process has held {shown(folder)} for {TOTAL_SECONDS} s ({error})."
            " End that process, or set BNN_OFFLINE=1 to work without the download."
        ) from error


def _fetch_file(file: Download, folder: Path, seconds: float, quiet: bool) -> None:
    """Fetch one file; the server has to answer within `seconds`."""
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}.*.part"):  # a killed process has left them
        if time.time() - left.stat().st_mtime > TOTAL_SECONDS:
            left.unlink(missing_ok=True)
    request = urllib.request.Request(file.url, headers={"User-Agent": "Python-urllib"})
    response = _within(seconds, file.url, lambda: urllib.request.urlopen(request, timeout=STALL_SECONDS))
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with response, open(part, "xb") as out:
            digest = _copy(response, out, file, quiet)
            os.fsync(out.fileno())
        if digest != file.sha256:
            raise DataError(_advice(file, folder, f"its SHA-256 is {digest} instead of {file.sha256}"))
        os.replace(part, target)
    except (OSError, HTTPException) as error:
        raise DataError(_advice(file, folder, str(error) or type(error).__name__)) from error
    finally:
        part.unlink(missing_ok=True)


def _copy(response: HTTPResponse, out: IO[bytes], file: Download, quiet: bool) -> str:
    """Copy the body of the response to `out` and return its SHA-256.

    Raises:
      OSError: The number of bytes is wrong, or the transfer takes longer than TOTAL_SECONDS.
    """
    end = time.monotonic() + TOTAL_SECONDS
    sha256, size = hashlib.sha256(), 0
    megabytes = nullcontext() if quiet else bar(total=-(-file.size // 10**6), desc=f"{file.path} (MB)")
    with megabytes as progress:
        while size <= file.size and (chunk := response.read1(1 << 20)):
            out.write(chunk)
            sha256.update(chunk)
            size += len(chunk)
            if progress is not None:
                progress.update(size // 10**6 - progress.n)
            if time.monotonic() > end:
                raise OSError(f"it was not complete after {TOTAL_SECONDS} s")
    if size != file.size:
        received = "more" if size > file.size else f"only {size:,}"
        raise OSError(f"the server sent {received} of its {file.size:,} bytes")
    return sha256.hexdigest()


def _advice(file: Download, folder: Path, problem: str) -> str:
    return (
        f"The download of {file.path} from {file.url} failed and was deleted, because {problem}. Try again, put the"
        f" file into {shown(folder)} yourself, or set BNN_OFFLINE=1 to work without the download."
    )
