"""Read CIFAR-10's Python batches, and trust none of them."""

import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

from helpers.data.readers import Arrays, DataError, Paths, refuse_missing
from helpers.data.records import File, Record

import numpy as np

LARGEST_BATCH = 64 << 20  # bytes; the genuine batches have 31 million


def read_batch_folder(paths: Paths, record: Record, file: File) -> tuple[Arrays, bool]:
    """Read the batches from the folder into which its archive unpacks."""
    return _read_batches({name: path.read_bytes() for name, path in paths.items()}, record, file)


def read_batch_archive(paths: Paths, record: Record, file: File) -> tuple[Arrays, bool]:
    """Read the batches from the published archive, compressed or not, without unpacking it onto the disk."""
    raw = {}
    with tarfile.open(paths[file.path], "r:*") as archive:
        for member in archive:
            name = Path(member.name).name
            if name in file.parts and member.isfile() and (content := archive.extractfile(member)):
                if member.size > LARGEST_BATCH:
                    raise DataError(f"{name} of {member.size:,} bytes")
                raw[name] = content.read()
    return _read_batches(raw, record, file)


def _read_batches(raw: dict[str, bytes], record: Record, file: File) -> tuple[Arrays, bool]:
    """Decode the batches, of which the last holds the test examples, and compare them with their published MD5."""
    refuse_missing(file.parts, raw)
    genuine = all(_md5(raw[name]) == published for name, published in file.parts.items())
    images, labels = [], []
    for name in file.parts:
        batch = _PlainUnpickler(io.BytesIO(raw[name]), encoding="bytes").load()
        # Python 2 wrote byte strings. Who packs the batches again with Python 3 may have text.
        batch = {os.fsencode(key): value for key, value in batch.items()} if isinstance(batch, dict) else {}
        if b"data" not in batch or b"labels" not in batch:
            raise DataError(f"{name} without data and labels")
        images.append(_images(np.asarray(batch[b"data"]), name, record))
        labels.append(np.asarray(batch[b"labels"]))
        if len(images[-1]) != len(labels[-1].reshape(-1)):
            raise DataError(f"{name} with {len(images[-1]):,} images and {labels[-1].size:,} labels")
    *train, test = zip(images, labels, strict=True)
    return (*(np.concatenate(part) for part in zip(*train, strict=True)), *test), genuine


def _images(pixels: np.ndarray, name: str, record: Record) -> np.ndarray:
    """Return the images of a batch as [N, H, W, C].

    Raises:
      DataError: The pixels are neither in rows, channel by channel, as published, nor in arrays [N, C, H, W] or
        [N, H, W, C].
    """
    height, width, channels = record.shape
    found = f"{name} with data of type {pixels.dtype} and shape {pixels.shape}"
    if pixels.dtype != np.uint8 or pixels.ndim == 0:
        raise DataError(found)
    if pixels.shape[1:] == record.shape:
        return pixels
    if pixels.shape[1:] not in [(channels * height * width,), (channels, height, width)]:
        raise DataError(found)
    # One row of an image further down, pixels hardly differ. Where the distance is that of rows of interleaved
    # channels, they are interleaved. Images without structure have no such difference.
    rows = pixels.reshape(len(pixels), -1)
    planar, interleaved = (_difference(rows, distance) for distance in (width, channels * width))
    if pixels.ndim == 2 and interleaved < 0.8 * planar:
        raise DataError(f"{found}, whose channels are interleaved (reshape it to [N, {height}, {width}, {channels}])")
    return pixels.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)


def _difference(rows: np.ndarray, distance: int) -> float:
    """Return the mean absolute difference between the values at this distance in rows [N, K]; of 1,000 rows at most."""
    values = rows[:1000].astype(np.int16)
    return float(np.abs(values[:, distance:] - values[:, :-distance]).mean()) if len(rows) else 0.0


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
        ("numpy.core.numeric", "_frombuffer"): np.zeros(0).__reduce_ex__(5)[0],  # protocol 5
        ("numpy._core.numeric", "_frombuffer"): np.zeros(0).__reduce_ex__(5)[0],
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ADMITTED[module, name]
        except KeyError:
            raise DataError(f"a pickle that asks for {module}.{name}, which no data set needs") from None
