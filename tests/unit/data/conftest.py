"""Small data sets in the files of each layout, and a server that sends them well or badly."""

import gzip
import hashlib
import http.server
import io
import pickle
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from helpers.data import Dataset, dataset, readers
from helpers.data.catalogue import DATASETS, Download

import numpy as np
import pytest

from tests.support.damage import images, python2_batch, small_data_sets

IDX_FILES = tuple(f"{part}.gz" for part in DATASETS["fashion_mnist"].files[1].parts)
BATCHES = tuple(DATASETS["cifar10"].files[1].parts)


@pytest.fixture(autouse=True)
def small_files() -> Iterator[pytest.MonkeyPatch]:
    """Make files of a few images whole data sets, and let stand-ins be announced again."""
    patch = small_data_sets()
    patch.delenv("BNN_QUIET", raising=False)
    patch.setattr(dataset, "_ANNOUNCED", set())
    yield patch
    patch.undo()


@pytest.fixture
def default(small_files: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the data folder that is used if none is named. It does not exist yet."""
    small_files.setattr(dataset, "ROOT", tmp_path)
    return tmp_path / "data"


@pytest.fixture
def change(small_files: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that changes fields of a record for the test."""
    return lambda name, **fields: small_files.setitem(DATASETS, name, replace(DATASETS[name], **fields))


def same(loaded: Dataset, arrays: tuple[np.ndarray, ...]) -> bool:
    """Return whether these arrays were loaded."""
    return all(np.array_equal(getattr(loaded, key), array) for key, array in zip(readers.KEYS, arrays, strict=True))


def npz(name: str = "mnist", save: Callable = np.savez_compressed, **changes: np.ndarray | None) -> bytes:
    """Return a NumPy archive of the small data set; None leaves an array out."""
    content = {**dict(zip(readers.KEYS, images(name), strict=True)), **changes}
    file = io.BytesIO()
    save(file, **{key: array for key, array in content.items() if array is not None})
    return file.getvalue()


def write_idx(folder: Path, arrays: tuple[np.ndarray, ...]) -> None:
    """Write the four gzipped idx files."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, array in zip(IDX_FILES, arrays, strict=True):
        array = array.reshape(array.shape[:3]).astype(np.uint8)  # without the channel
        header = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
        (folder / file).write_bytes(gzip.compress(header + array.tobytes()))


def python3_batch(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    """Write a batch of CIFAR-10 as Python 3 does.

    The protocol is 3, because under protocol 2 Python 3 pickles an array with a call of `_codecs.encode`, which the
    reader refuses before it comes to the content.
    """
    rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    return pickle.dumps({b"data": rows, b"labels": labels.tolist()}, protocol=3)


def batches(arrays: tuple[np.ndarray, ...], write: Callable[..., bytes] = python2_batch) -> dict[str, bytes]:
    """Return CIFAR-10's batches: {name: content}."""
    x, y, x_test, y_test = arrays
    parts = [*zip(np.split(x, 5), np.split(y, 5), strict=True), (x_test, y_test)]
    return {name: write(*part) for name, part in zip(BATCHES, parts, strict=True)}


def write_batches(folder: Path, raw: dict[str, bytes]) -> Path:
    """Write batches into the folder in which CIFAR-10's archive has them, and return it."""
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, content in raw.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(folder: Path, raw: dict[str, bytes]) -> Path:
    """Write these members into CIFAR-10's archive, and return it."""
    path = folder / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in raw.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def server(small_files: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """Run an HTTP server. /good/F sends content[F] (within `delay` seconds), and other paths misbehave.

    `offer(name, content, how)` makes the server send a file, and returns its `Download`. `folder` is a data folder,
    which does not exist yet, and `requests` lists the paths that were asked for.
    """
    state = SimpleNamespace(requests=[], content={}, delay=0, over=threading.Event(), folder=tmp_path / "data")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            _, how, name = self.path.split("/", 2)
            if how == "silent":
                state.over.wait(20)
                return
            body = state.content[name]
            if how == "refused":
                return self.send_error(403)
            self.send_response(200)
            if how != "unmeasured":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if how != "good":
                body = body[: len(body) // 2]
            for start in range(0, len(body), 1 + len(body) // 4):
                self.wfile.write(body[start : start + 1 + len(body) // 4])
                self.wfile.flush()
                state.over.wait(state.delay / 4)
            if how == "stalled":
                state.over.wait(20)

        def log_message(self, *_: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    url = f"http://127.0.0.1:{httpd.server_port}"

    def offer(name: str, content: bytes, how: str = "good") -> Download:
        file = name.rpartition("/")[2]
        state.content[file] = content
        return Download(name, f"{url}/{how}/{file}", len(content), hashlib.sha256(content).hexdigest())

    state.offer, state.url = offer, url
    for variable in ("no_proxy", "NO_PROXY"):
        small_files.setenv(variable, "127.0.0.1")
    small_files.delenv("BNN_OFFLINE", raising=False)
    yield state
    state.over.set()
    httpd.shutdown()
    httpd.server_close()
