"""Reads the files in which MNIST, Fashion-MNIST and CIFAR-10 are handed around, and trusts none of them."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path

from helpers import ROOT

import numpy as np

KEYS = ("x_train", "y_train", "x_test", "y_test")
COUNTS = {"mnist": (60_000, 10_000), "fashion_mnist": (60_000, 10_000), "cifar10": (50_000, 10_000)}
SHAPES = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}

IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
# The single files that a data set is read from; CIFAR-10 comes in a folder too, see `_candidates`.
FILES = {
    "mnist": ("mnist.npz",),
    "fashion_mnist": ("fashion_mnist.npz", *IDX_FILES),
    "cifar10": ("cifar10.npz", "cifar-10-python.tar.gz", "cifar10_lossless_5k.npz"),
}
# Where Debian and Ubuntu install their package dataset-fashion-mnist.
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")

# MD5 is what is published for the single batches (torchvision's datasets/cifar.py); the archive that
# holds them is checked by SHA-256 when it is downloaded.
BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
LARGEST_BATCH = 64 << 20  # bytes; the genuine ones have 31 million


class DataError(Exception):
    """A data set, or what was asked of one, cannot be used; the message says why and what to do."""


def shown(folder):
    """A data folder as a message names it: short, and without the layout of somebody's disk if possible."""
    if os.environ.get("BNN_DATA_DIR") and Path(folder) == Path(os.environ["BNN_DATA_DIR"]):
        return "$BNN_DATA_DIR"
    folder = Path(folder).absolute()
    return f"{folder.relative_to(ROOT)}/" if folder.is_relative_to(ROOT) else str(folder)


def find(name, folder):
    """Read data set `name` ("mnist", "fashion_mnist", "cifar10") from the first of its files in `folder`.

    Returns:
      None where there is no such file; else (arrays, file, genuine): arrays is (x_train, y_train, x_test,
      y_test), uint8 [N, H, W, C] and int32 [N]; file says where they are from; genuine is True if published
      checksums of the files vouch for them, and False if that is still to be found out.
    Raises:
      DataError: the file is there and cannot be used. It is not touched, and no other is tried.
    """
    for path, read, counts in _candidates(name, Path(folder)):
        try:
            arrays, genuine = read(path)
            return _checked(arrays, counts, SHAPES[name]), _file_name(path, folder), genuine
        except Exception as error:  # a foreign file can fail in any way
            found = str(error) if isinstance(error, DataError) else f"{type(error).__name__} ({error})"
            raise DataError(
                f"{_file_name(path, folder)} in {shown(folder)} cannot be used. Expected:"
                f" {_layout(path, counts, name)}. Found: {found}. It was left as it is: put a good copy in"
                " its place, or move it away, and the data set is fetched anew."
            ) from error
    return None


def _candidates(name, folder):
    """(path, reader, counts) of each file of this data set that is there, the preferred one first."""
    if name == "cifar10":
        known = [
            (folder / "cifar10.npz", read_npz, COUNTS[name]),
            (folder / "cifar-10-batches-py", read_batch_folder, COUNTS[name]),
            (folder / "cifar-10-python.tar.gz", read_batch_archive, COUNTS[name]),
            (folder / "cifar10_lossless_5k.npz", read_npz, (4_000, 1_000)),
        ]
    else:
        known = [(folder / f"{name}.npz", read_npz, COUNTS[name])]
    found = [candidate for candidate in known if candidate[0].exists()]
    if name == "fashion_mnist":
        for place in (folder / "fashion-mnist", folder, DEBIAN_FASHION):
            if all((place / file).exists() for file in IDX_FILES):
                found.append((place, read_idx_folder, COUNTS[name]))
    return found


def _file_name(path, folder):
    if path == DEBIAN_FASHION:
        return "the system's package dataset-fashion-mnist"
    return "the idx files" if path == Path(folder) else path.name


def _layout(path, counts, name):
    if path.suffix == ".npz":
        kind = f"a NumPy archive of {', '.join(KEYS)}"
    else:
        kind = "gzipped idx files" if name == "fashion_mnist" else f"the batches {', '.join(BATCHES)}"
    shape = "x".join(map(str, SHAPES[name]))
    return f"{kind} with {counts[0]:,} + {counts[1]:,} images of {shape} bytes and labels 0 to 9"


def _checked(arrays, counts, shape):
    """The arrays as uint8 [N, H, W, C] and int32 [N]; DataError says what is wrong with them."""
    result = []
    for key, array in zip(KEYS, arrays, strict=True):
        count = counts[0] if key.endswith("train") else counts[1]
        if key.startswith("x"):
            # Grey images are stored with or without their one channel.
            allowed = [(count, *shape)] + ([(count, *shape[:2])] if shape[2] == 1 else [])
            if array.dtype != np.uint8 or array.shape not in allowed:
                raise DataError(f"{key} of type {array.dtype} and shape {array.shape}")
            # Batches come out of their transposition with strides that would slow every later step.
            result.append(np.ascontiguousarray(array.reshape(count, *shape)))
        else:
            if array.dtype.kind not in "iu" or array.shape not in [(count,), (count, 1)]:
                raise DataError(f"{key} of type {array.dtype} and shape {array.shape}")
            if array.min() < 0 or array.max() > 9:
                raise DataError(f"{key} with labels from {array.min()} to {array.max()}")
            result.append(array.reshape(count).astype(np.int32))
    return tuple(result)


def read_npz(path):
    """Keras' layout: one NumPy archive. Pickled objects in it are refused."""
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            raise DataError("something that is not a NumPy archive")
    with np.load(path, allow_pickle=False) as archive:
        missing = [key for key in KEYS if key not in archive.files]
        if missing:
            raise DataError(f"no {', '.join(missing)}, only {', '.join(archive.files) or 'nothing'}")
        return tuple(archive[key] for key in KEYS), False


def read_idx_folder(folder):
    """The four gzipped idx files of the MNIST family: a big-endian header, then the bytes."""
    return tuple(_read_idx(folder / file) for file in IDX_FILES), False


def _read_idx(path):
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


def read_batch_folder(folder):
    """CIFAR-10's own python batches, unpacked."""
    missing = [name for name in BATCHES if not (folder / name).is_file()]
    if missing:
        raise DataError(f"no {', '.join(missing)}")
    return _read_batches({name: (folder / name).read_bytes() for name in BATCHES})


def read_batch_archive(path):
    """CIFAR-10's own python batches as they are published; nothing is unpacked onto the disk."""
    raw = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            name = Path(member.name).name
            if name in BATCHES and member.isfile():
                if member.size > LARGEST_BATCH:
                    raise DataError(f"{name} of {member.size:,} bytes")
                raw[name] = archive.extractfile(member).read()
    missing = [name for name in BATCHES if name not in raw]
    if missing:
        raise DataError(f"no {', '.join(missing)}")
    return _read_batches(raw)


def _read_batches(raw):
    genuine = all(_md5(raw[name]) == published for name, published in BATCHES.items())
    images, labels = [], []
    for name in BATCHES:
        batch = _PlainUnpickler(io.BytesIO(raw[name]), encoding="bytes").load()
        if not isinstance(batch, dict) or b"data" not in batch or b"labels" not in batch:
            raise DataError(f"{name} without data and labels")
        # Each row is one image, channel by channel.
        images.append(np.asarray(batch[b"data"]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(np.asarray(batch[b"labels"]))
    train, test = slice(0, 5), slice(5, 6)
    return tuple(np.concatenate(part[half]) for half in (train, test) for part in (images, labels)), genuine


def _md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class _PlainUnpickler(pickle.Unpickler):
    """Admits NumPy arrays and plain containers. Any other name in a pickle could run code, and is refused."""

    # The batches were written by Python 2 and NumPy 1; copies made later name NumPy 2's module.
    ADMITTED = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    }

    def find_class(self, module, name):
        try:
            return self.ADMITTED[module, name]
        except KeyError:
            raise DataError(f"a pickle that asks for {module}.{name}, which no data set needs") from None
