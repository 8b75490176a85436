"""Read the files in which data sets are distributed, and trust none of them."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from helpers import ROOT
from helpers.data.catalogue import File, Record

import numpy as np

KEYS = ("x_train", "y_train", "x_test", "y_test")
LARGEST_BATCH = 64 << 20  # bytes; the genuine batches of CIFAR-10 have 31 million

Arrays = tuple[np.ndarray, ...]  # x_train, y_train, x_test, y_test


class DataError(Exception):
    """A data set, or what was asked of one, cannot be used. The message says why and what to do."""


def shown(folder: str | Path) -> str:
    """Name a data folder in a message: short, and without the layout of somebody's disk if possible."""
    if os.environ.get("BNN_DATA_DIR") and Path(folder) == Path(os.environ["BNN_DATA_DIR"]):
        return "$BNN_DATA_DIR"
    folder = Path(folder).absolute()
    return f"{folder.relative_to(ROOT)}/" if folder.is_relative_to(ROOT) else str(folder)


def find(record: Record, folder: str | Path) -> tuple[Arrays, str, bool] | None:
    """Read a data set from the first of its files that exists.

    Args:
      record: The data set, from `catalogue.DATASETS`.
      folder: The data folder.

    Returns:
      None if there is no such file. Otherwise (arrays, file, genuine). `arrays` is (x_train, y_train, x_test, y_test),
      uint8 [N, H, W, C] and int32 [N]. `file` is what messages call the file. `genuine` is True if published checksums
      of the file vouch for the arrays, and False if their origin has yet to be identified.

    Raises:
      DataError: The file exists, but it cannot be used. It is left as it is, and no other file is tried.
    """
    for file in record.files:
        path = Path(folder) / file.path
        if not _exists(path, file):
            continue
        try:
            arrays, genuine = READERS[file.layout](path, record, file)
            return _checked(arrays, record, file), _title(file), genuine
        except Exception as error:  # a file of unknown origin can fail in any way
            found = str(error) if isinstance(error, DataError) else f"{type(error).__name__} ({error})"
            place = "" if Path(file.path).is_absolute() else f" in {shown(folder)}"
            raise DataError(
                f"{_title(file)}{place} cannot be used: expected {_expected(record, file)}, but found"
                f" {found}. Put a good copy in its place, or move it away so that the data set is fetched again."
            ) from error
    return None


def _exists(path: Path, file: File) -> bool:
    # A folder with some of the four idx files may be an unfinished download, so all of them have to be there.
    return all((path / part).exists() for part in file.parts) if file.layout == "idx" else path.exists()


def _title(file: File) -> str:
    return file.title or Path(file.path).name


def _counts(record: Record, file: File) -> tuple[int, int]:
    return file.counts or record.counts


def _expected(record: Record, file: File) -> str:
    """Describe what the file should hold."""
    kinds = {"npz": f"a NumPy archive of {', '.join(KEYS)}", "idx": "gzipped idx files"}
    kind = kinds.get(file.layout) or f"the batches {', '.join(file.parts)}"
    train, test = _counts(record, file)
    shape = "x".join(map(str, record.shape))
    last = len(record.label_names) - 1
    return f"{kind} with {train:,} + {test:,} images of {shape} bytes and labels 0 to {last}"


def _checked(arrays: Arrays, record: Record, file: File) -> Arrays:
    """Return the arrays as uint8 [N, H, W, C] and int32 [N].

    Raises:
      DataError: Types, shapes or labels are not those of the data set.
    """
    result = []
    height, width, channels = record.shape
    train, test = _counts(record, file)
    for key, array, count in zip(KEYS, arrays, (train, train, test, test), strict=True):
        if key.startswith("x"):
            # Grey images are stored with or without their one channel.
            allowed = [(count, *record.shape)] + ([(count, height, width)] if channels == 1 else [])
            if array.dtype != np.uint8 or array.shape not in allowed:
                raise DataError(f"{key} of type {array.dtype} and shape {array.shape}")
            # The transposed batches of CIFAR-10 have strides that would slow down every later step.
            result.append(np.ascontiguousarray(array.reshape(count, *record.shape)))
        else:
            if array.dtype.kind not in "iu" or array.shape not in [(count,), (count, 1)]:
                raise DataError(f"{key} of type {array.dtype} and shape {array.shape}")
            if array.min() < 0 or array.max() >= len(record.label_names):
                raise DataError(f"{key} with labels from {array.min()} to {array.max()}")
            result.append(array.reshape(count).astype(np.int32))
    return tuple(result)


def read_npz(path: Path, record: Record, file: File) -> tuple[Arrays, bool]:
    """Read the layout of Keras: one NumPy archive. Pickled objects in it are refused."""
    with open(path, "rb") as opened:
        if opened.read(2) != b"PK":
            raise DataError("something that is not a NumPy archive")
        opened.seek(0)
        # Given a path, np.load would leave the file open when it raises.
        with np.load(opened, allow_pickle=False) as archive:
            _refuse_missing(KEYS, archive.files)
            return tuple(archive[key] for key in KEYS), False


def read_idx_folder(path: Path, record: Record, file: File) -> tuple[Arrays, bool]:
    """Read the four gzipped idx files of the MNIST family: a big-endian header, then the bytes."""
    return tuple(_read_idx(path / part) for part in file.parts), False


def _read_idx(path: Path) -> np.ndarray:
    with gzip.open(path) as file:
        raw = file.read()
    # Two zero bytes, 8 for unsigned bytes, the number of dimensions, then each dimension in four bytes.
    dimensions = raw[3] if raw[:3] == b"\0\0\x08" and len(raw) > 4 else 0
    if dimensions not in (1, 3):
        raise DataError(f"{path.name} without the header of an idx file")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", dimensions, offset=4))
    if len(raw) != 4 + 4 * dimensions + int(np.prod(shape)):
        raise DataError(f"{path.name} with {len(raw):,} bytes, which do not fit its header {shape}")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def read_batch_folder(path: Path, record: Record, file: File) -> tuple[Arrays, bool]:
    """Read CIFAR-10's Python batches from the folder into which its archive unpacks."""
    raw = {name: (path / name).read_bytes() for name in file.parts if (path / name).is_file()}
    return _read_batches(raw, record, file)


def read_batch_archive(path: Path, record: Record, file: File) -> tuple[Arrays, bool]:
    """Read CIFAR-10's Python batches from the published archive, without unpacking it onto the disk."""
    raw = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            name = Path(member.name).name
            if name in file.parts and member.isfile() and (content := archive.extractfile(member)):
                if member.size > LARGEST_BATCH:
                    raise DataError(f"{name} of {member.size:,} bytes")
                raw[name] = content.read()
    return _read_batches(raw, record, file)


def _read_batches(raw: dict[str, bytes], record: Record, file: File) -> tuple[Arrays, bool]:
    """Decode the batches, of which the last holds the test examples, and compare them with their published MD5."""
    _refuse_missing(file.parts, raw)
    genuine = all(_md5(raw[name]) == published for name, published in file.parts.items())
    height, width, channels = record.shape
    images, labels = [], []
    for name in file.parts:
        batch = _PlainUnpickler(io.BytesIO(raw[name]), encoding="bytes").load()
        if not isinstance(batch, dict) or b"data" not in batch or b"labels" not in batch:
            raise DataError(f"{name} without data and labels")
        # A row is one image, channel by channel.
        rows = np.asarray(batch[b"data"]).reshape(-1, channels, height, width)
        images.append(rows.transpose(0, 2, 3, 1))
        labels.append(np.asarray(batch[b"labels"]))
    *train, test = zip(images, labels, strict=True)
    return (*(np.concatenate(part) for part in zip(*train, strict=True)), *test), genuine


def _refuse_missing(expected: Iterable[str], found: Collection[str]) -> None:
    missing = [name for name in expected if name not in found]
    if missing:
        raise DataError(f"no {', '.join(missing)}, only {', '.join(found) or 'nothing'}")


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class _PlainUnpickler(pickle.Unpickler):
    """Admit NumPy arrays and plain containers only, because any other name in a pickle could run code."""

    # Python 2 and NumPy 1 wrote the genuine batches. Copies made later name a module of NumPy 2.
    ADMITTED: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ADMITTED[module, name]
        except KeyError:
            raise DataError(f"a pickle that asks for {module}.{name}, which no data set needs") from None


READERS: dict[str, Callable[[Path, Record, File], tuple[Arrays, bool]]] = {
    "npz": read_npz,
    "idx": read_idx_folder,
    "batch folder": read_batch_folder,
    "batch archive": read_batch_archive,
}
