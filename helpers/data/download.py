"""Fetches the official files: checked before use, moved into place whole, by one process at a time."""

import fcntl
import hashlib
import os
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from contextlib import contextmanager, nullcontext, suppress
from http.client import HTTPException
from typing import NamedTuple

from helpers.data.readers import DataError, shown
from helpers.progress import bar

RESPONSE_SECONDS = 3  # from the start to the first byte; with none by then there is no network
STALL_SECONDS = 20  # without a byte in the middle of a transfer
TOTAL_SECONDS = 1800  # for one file, and for waiting while another process fetches it


class File(NamedTuple):
    path: str  # in the data folder
    url: str
    size: int  # bytes
    sha256: str


_KERAS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"

# SHA-256 of mnist.npz and of CIFAR-10: Keras, datasets/mnist.py and datasets/cifar10.py; of Fashion-MNIST:
# TensorFlow Datasets, url_checksums/fashion_mnist.txt (its authors publish the MD5 of the same four files).
FILES = {
    "mnist": (
        File(
            "mnist.npz",
            _KERAS + "mnist.npz",
            11_490_434,
            "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
        ),
    ),
    "cifar10": (
        File(
            "cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            170_498_071,
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        ),
    ),
    "fashion_mnist": (
        File(
            "fashion-mnist/train-images-idx3-ubyte.gz",
            _KERAS + "train-images-idx3-ubyte.gz",
            26_421_880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        File(
            "fashion-mnist/train-labels-idx1-ubyte.gz",
            _KERAS + "train-labels-idx1-ubyte.gz",
            29_515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        File(
            "fashion-mnist/t10k-images-idx3-ubyte.gz",
            _KERAS + "t10k-images-idx3-ubyte.gz",
            4_422_102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        File(
            "fashion-mnist/t10k-labels-idx1-ubyte.gz",
            _KERAS + "t10k-labels-idx1-ubyte.gz",
            5_148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
}


class Unavailable(Exception):
    """The files cannot be had from here, and nothing is wrong with them: there is no network, say."""


def fetch(name, folder, quiet=False):
    """Download what `folder` lacks of data set `name`; of several processes one does it, and the rest wait.

    Args:
      name: a key of FILES.
      folder: Path, made if it is not there.
      quiet: no progress bar.
    Raises:
      Unavailable: within RESPONSE_SECONDS, if no server answers.
      DataError: one answers, but what it sends is cut off or is not the file.
    """
    start = time.monotonic()
    url = FILES[name][0].url
    # Without a network nothing is written, no lock either, and no process waits for another's attempt.
    _within(RESPONSE_SECONDS, url, lambda: _connect(url))
    left = max(0.5, RESPONSE_SECONDS - (time.monotonic() - start))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _turn(folder / f".{name}.lock"):
            for file in FILES[name]:
                if not (folder / file.path).exists():
                    _fetch_file(file, folder, left, quiet)
    except OSError as error:
        raise Unavailable(f"{shown(folder)} cannot be written ({error.strerror})") from error


def _connect(url):
    """Open a connection to the server, or to the proxy that stands before it, and close it again."""
    target = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(target.scheme)
    if proxy and not urllib.request.proxy_bypass(target.hostname):
        target = urllib.parse.urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    port = target.port or {"https": 443}.get(target.scheme, 80)
    socket.create_connection((target.hostname, port), timeout=RESPONSE_SECONDS).close()


def _within(seconds, url, function):
    """function(), given up after `seconds`: name look-ups obey no time limit of their own."""
    outcome = {}

    def run():
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
def _turn(path):
    """Hold the lock at `path`. A process that waited for one that failed fails as that one did.

    flock dies with its process, so one that was killed blocks nobody. The file goes when its holder is done;
    what a failed holder wrote into it can still be read by those who waited. Over NFS, Linux turns flock into
    a lock that the server keeps; on a file system without locks (Lustre mounted without flock) each process
    fetches for itself, which is slower and as safe, since a file is moved into place only when it is whole.
    """
    end = time.monotonic() + TOTAL_SECONDS
    while True:
        lock = open(path, "a+")
        while not _try_lock(lock):
            if time.monotonic() > end:
                lock.close()
                raise DataError(
                    f"Another process has held {path.name} in {shown(path.parent)} for {TOTAL_SECONDS} s."
                    " End it, or set BNN_OFFLINE=1 to work without the download."
                )
            time.sleep(0.05)
        kind = failure = ""
        with suppress(OSError):  # the file is gone, or stale over NFS: the process before this one is done
            lock.seek(0)
            kind, _, failure = lock.read().partition(":")
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
                break
        lock.close()
        if failure:
            raise (Unavailable if kind == "Unavailable" else DataError)(failure)
    lock.truncate(0)  # of what a process left that was killed as it failed
    try:
        yield
    except (Unavailable, DataError) as error:
        lock.write(f"{type(error).__name__}:{error}")
        lock.flush()
        raise
    finally:
        path.unlink(missing_ok=True)
        lock.close()


def _try_lock(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def _fetch_file(file, folder, seconds, quiet):
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}.*.part"):  # by a process that was killed
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
            raise DataError(_advice(file, folder, f"its SHA-256 is {digest}, and should be {file.sha256}"))
        os.replace(part, target)
    except (OSError, HTTPException) as error:
        raise DataError(_advice(file, folder, str(error) or type(error).__name__)) from error
    finally:
        part.unlink(missing_ok=True)


def _copy(response, out, file, quiet):
    """Copy the body to `out`; returns its SHA-256."""
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
                raise OSError(f"not complete after {TOTAL_SECONDS} s")
    if size != file.size:
        came = "more" if size > file.size else f"{size:,}"
        raise OSError(f"of its {file.size:,} bytes {came} came")
    return sha256.hexdigest()


def _advice(file, folder, problem):
    return (
        f"The download of {file.path} from {file.url} failed and was thrown away: {problem}. Try again;"
        f" or put the file into {shown(folder)} by hand; or set BNN_OFFLINE=1 to work with a stand-in."
    )
