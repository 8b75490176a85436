"""Read the files in which data sets are distributed, and trust none of them."""

import gzip
import hashlib
import math
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from helpers import ROOT
from helpers.data.catalogue import DATASETS
from helpers.data.records import File, Record

import numpy as np

KEYS = ("x_train", "y_train", "x_test", "y_test")

Arrays = tuple[np.ndarray, ...]  # x_train, y_train, x_test, y_test
Paths = Mapping[str, Path]  # where each part of a data set lies, or the file itself


class DataError(Exception):
    """A data set, or what was asked of one, cannot be used. The message says why and what to do."""


class OtherData(DataError):
    """A file that has a name of the data set holds something else."""


def content_sha256(arrays: Iterable[np.ndarray]) -> str:
    """Return the SHA-256 over the values of arrays, one byte each in C order, however a file packs them."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, dtype=np.uint8).data)
    return digest.hexdigest()


def shown(folder: str | Path) -> str:
    """Name a data folder in a message: short, and without the layout of somebody's disk if possible."""
    named = os.environ.get("BNN_DATA_DIR")
    if named and Path(folder) == Path(os.path.expanduser(named)):
        return "$BNN_DATA_DIR"
    folder = Path(folder).absolute()
    return f"{folder.relative_to(ROOT)}/" if folder.is_relative_to(ROOT) else str(folder)


def _counts(record: Record, file: File) -> tuple[int, int]:
    return file.counts or record.counts


def expected(record: Record, file: File) -> str:
    """Describe what the file should hold."""
    kinds = {"npz": f"a NumPy archive of {', '.join(KEYS)}", "idx": "idx files"}
    kind = kinds.get(file.layout) or (f"the batches {', '.join(file.parts)}" if "batch" in file.layout else "a table")
    train, test = _counts(record, file)
    shape = "x".join(map(str, record.shape))
    last = len(record.label_names) - 1
    return f"{kind} with {train:,} + {test:,} images of {shape} bytes and labels 0 to {last}"


def checked(arrays: Arrays, record: Record, file: File, neutral: bool = False) -> Arrays:
    """Return the arrays as uint8 [N, H, W, C] and int32 [N].

    Raises:
      OtherData: The names of the files are `neutral`, and these are the labels of another data set.
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
            if channels > 1 and array.ndim == 4:
                refuse_other_order(array, record, f"{key} of shape {array.shape}", planar=False)
            # The transposed batches of CIFAR-10 have strides that would slow down every later step.
            result.append(np.ascontiguousarray(array.reshape(count, *record.shape)))
        else:
            if array.dtype.kind not in "iu" or array.shape not in [(count,), (count, 1)]:
                raise DataError(f"{key} of type {array.dtype} and shape {array.shape}")
            if array.min() < 0 or array.max() >= len(record.label_names):
                raise DataError(f"{key} with labels from {array.min()} to {array.max()}")
            if array.min() == array.max():
                raise DataError(f"{key} with the label {array.min()} alone")  # such as a column of pixels
            result.append(array.reshape(count).astype(np.int32))
    for other in DATASETS.values() if neutral else ():
        if other is not record and content_sha256(result[1::2]) == other.labels_sha256:
            raise OtherData(f"those of {other.title}")
    return tuple(result)


def refuse_other_order(images: np.ndarray, record: Record, found: str, planar: bool) -> None:
    """Refuse photographs whose numbers are in another order than is assumed, so that they would look scrambled.

    One row of an image further down, pixels hardly differ. So numbers at the distance of a row of planar channels
    differ less than those at the distance of a row of interleaved channels, or the other way round. Images without
    structure have no such difference.

    Args:
      images: [N, ...], in memory as they would be read.
      record: the data set, whose images have several channels.
      found: what was found, for the message.
      planar: whether the channels are assumed one after the other, and not interleaved.

    Raises:
      DataError: the numbers are in the other order.
    """
    height, width, channels = record.shape
    rows = images[:1000].reshape(len(images[:1000]), -1).astype(np.int16)
    distances = (width, channels * width) if planar else (channels * width, width)
    right, wrong = (float(np.abs(rows[:, far:] - rows[:, :-far]).mean()) if len(rows) else 0.0 for far in distances)
    if wrong < 0.8 * right:
        order, shape = "interleaved", f"[N, {height}, {width}, {channels}]"
        if not planar:
            order, shape = "one after the other", f"[N, {channels}, {height}, {width}]"
        raise DataError(f"{found}, whose channels are {order} (reshape the numbers to {shape})")


def read_npz(paths: Paths, record: Record, file: File) -> tuple[Arrays, bool]:
    """Read the layout of Keras: one NumPy archive. Pickled objects in it are refused."""
    with open(paths[file.path], "rb") as opened:
        if opened.read(2) != b"PK":
            raise DataError("something that is not a NumPy archive")
        opened.seek(0)
        # Given a path, np.load would leave the file open when it raises.
        with np.load(opened, allow_pickle=False) as archive:
            refuse_missing(KEYS, archive.files)
            return tuple(archive[key] for key in KEYS), False


def read_idx(paths: Paths, record: Record, file: File) -> tuple[Arrays, bool]:
    """Read the four idx files of the MNIST family, gzipped or not: a big-endian header, then the bytes."""
    return tuple(_read_idx(paths[part]) for part in file.parts), False


def _read_idx(path: Path) -> np.ndarray:
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    # Two zero bytes, 8 for unsigned bytes, the number of dimensions, then each dimension in four bytes.
    dimensions = raw[3] if raw[:3] == b"\0\0\x08" and len(raw) > 4 else 0
    if dimensions not in (1, 3):
        raise DataError(f"{path.name} without the header of an idx file")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", dimensions, offset=4))
    if len(raw) != 4 + 4 * dimensions + int(np.prod(shape)):
        raise DataError(f"{path.name} with {len(raw):,} bytes, which do not fit its header {shape}")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def read_csv(paths: Paths, record: Record, file: File) -> tuple[Arrays, bool]:
    """Read two tables with a row for each image: its label, then its pixels. A first line of titles is left out."""
    arrays: list[np.ndarray] = []
    for part in file.parts:
        with open(paths[part], "rb") as opened:
            compressed = opened.read(2) == b"\x1f\x8b"
        with (gzip.open if compressed else open)(paths[part], "rt", encoding="utf-8-sig") as opened:
            titles = opened.readline()
            if not titles[:1].isdigit() and not titles.startswith("label,"):
                raise DataError(f"{part} that begins with {titles[:20]!r}, and not with a label")
            opened.seek(0)
            rows = np.loadtxt(opened, np.uint8, delimiter=",", skiprows=int(not titles[:1].isdigit()), ndmin=2)
        if rows.shape[1] != 1 + math.prod(record.shape):
            raise DataError(f"{part} with {rows.shape[1]} columns")
        arrays += [rows[:, 1:].reshape(-1, *record.shape), rows[:, 0]]
    return tuple(arrays), False


def refuse_kaggle(paths: Paths, record: Record, file: File) -> tuple[Arrays, bool]:
    """Refuse the table of Kaggle's Digit Recognizer, which comes without labels for a test."""
    path = paths[file.path]
    with open(path, "rb") as opened:
        if not opened.read(12) == b"label,pixel0":
            raise OtherData("no table of digits")
    raise DataError(
        f"{path.name} of Kaggle's Digit Recognizer, whose test images (test.csv) have no labels, so that no model could"
        f" be tested (use {record.files[0].path} instead)"
    )


def refuse_missing(expected: Iterable[str], found: Collection[str]) -> None:
    missing = [name for name in expected if name not in found]
    if missing:
        raise DataError(f"no {', '.join(missing)}, only {', '.join(found) or 'nothing'}")
