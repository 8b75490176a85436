"""Read CIFAR-10's Python batches, and trust none of them."""

import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

from helpers.data.readers import Arrays, DataError, Paths, refuse_missing, refuse_other_order
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
        refuse_other_order(pixels, record, found, planar=False)
        return pixels
    if pixels.shape[1:] not in [(channels * height * width,), (channels, height, width)]:
        raise DataError(found)
    refuse_other_order(pixels, record, found, planar=True)
    return pixels.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _encode(text: str, codec: str) -> bytes:
    """Make the bytes that Python 3 writes as text into a pickle of protocol 2."""
    if codec != "latin1":
        raise DataError(f"a pickle with text in the codec {codec}, which no data set needs")
    return text.encode(codec)


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
        ("numpy.core.multiarray", "scalar"): np.int64(0).__reduce__()[0],
        ("numpy._core.multiarray", "scalar"): np.int64(0).__reduce__()[0],
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ADMITTED[module, name]
        except KeyError:
            raise DataError(f"a pickle that asks for {module}.{name}, which no data set needs") from None
