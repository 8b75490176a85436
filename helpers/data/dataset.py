"""The data sets, where they came from, and how they reach the ranks batch by batch."""

import hashlib
import os
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path

from helpers import ROOT
from helpers.data import augment as augmentation
from helpers.data import download, readers, standin
from helpers.data.readers import DataError

import numpy as np
import tensorflow as tf

TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "fashion_mnist": "Fashion-MNIST"}
LABEL_NAMES = {
    "mnist": tuple("0123456789"),
    "cifar10": tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
    "fashion_mnist": tuple("T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag".split())
    + ("Ankle boot",),
}

# What is known by its content_sha256: of which data set it is, its own name, what it is, whether official.
KNOWN = {
    "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16":
        ("mnist", "mnist", "official MNIST", True),
    "ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f":
        ("fashion_mnist", "fashion_mnist", "official Fashion-MNIST", True),
    "46f33e45380d8f40b1a60da75e2aee3d585a474bf7beb2960fe4b34badeb0d8b":
        ("cifar10", "cifar10-jpeg", "JPEG copy of CIFAR-10 with pixels off by about 6/255", False),
    "d9ed2de18d85b1f000a17f97a5df1666fe4b653394b27d116488ef19eeeab3c6":
        ("cifar10", "cifar10-5k", "genuine part of CIFAR-10, the first images of its two sets", False),
}  # fmt: skip
KNOWN_LABELS = {  # content_sha256 of (y_train, y_test)
    "mnist": "671ff9d70b4811116d55c3dd479efa7a981e2e62753ef7a6d5c15fea81e63d27",
    "fashion_mnist": "8ab940a680640f36c0bf1d2549cb2f3b3d4068c12547116cc7b1161b1d26663d",
    "cifar10": "3edb456524d5918aefded81f5aef7c32efab2a788211df998a4eb0c8957baa1f",
}

SCALE = np.float32(1 / 255)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images and labels, which cannot be written to, and what is known of their origin."""

    name: str  # of what is in it: a stand-in or a copy has a name of its own
    source: str
    sha256: str  # of the content, see `content_sha256`
    official: bool
    label_names: tuple[str, ...]
    x_train: np.ndarray  # uint8 [N, H, W, C]
    y_train: np.ndarray  # int32 [N]
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def input_shape(self):
        """(H, W, C) of one image."""
        return self.x_train.shape[1:]

    @property
    def num_classes(self):
        return len(self.label_names)

    @property
    def provenance(self):
        """One line for beside a table or under a figure."""
        official = "official" if self.official else "not official"
        return f"{self.name}: {self.source} [{official}, SHA-256 {self.sha256[:12]}]"

    def __str__(self):
        return self.provenance

    __repr__ = __str__


def load(name, folder=None, quiet=False):
    """Load a data set from a file, by downloading it, or, without a network, as a stand-in that says so.

    Args:
      name: "mnist", "cifar10" or "fashion_mnist"; case, hyphens and underscores do not matter.
      folder: where files are looked for and downloaded to; by default $BNN_DATA_DIR, else data/ here.
      quiet: no progress bar, and no line about a stand-in; $BNN_QUIET=1 does the same.
        $BNN_OFFLINE=1 leaves the download out.
    Returns:
      Dataset.
    Raises:
      DataError: unknown name; a file that is there but not what it should be; a download gone wrong.
    """
    key = {_plain(known): known for known in TITLES}.get(_plain(name))
    if key is None:
        raise DataError(f"There is no data set {name!r}. Expected one of: {', '.join(TITLES)}.")
    folder = Path(folder or os.environ.get("BNN_DATA_DIR") or ROOT / "data").expanduser()
    quiet = quiet or _is_set("BNN_QUIET")
    found = readers.find(key, folder)
    reason = "$BNN_OFFLINE is set"
    if found is None and not _is_set("BNN_OFFLINE"):
        try:
            download.fetch(key, folder, quiet)
            found = readers.find(key, folder)
        except download.Unavailable as error:
            reason = f"no download ({error})"
    if found is None:
        dataset = _dataset(*standin.MAKERS[key](), official=False)
        where = readers.shown(folder)
        _say_once(key, f"{TITLES[key]} is not in {where}, and {reason}. Instead: {dataset}", quiet)
        return dataset
    return _identified(key, *found)


def _plain(name):
    return str(name).lower().replace("-", "").replace("_", "")


def _is_set(variable):
    return os.environ.get(variable, "0") not in ("", "0")


_SAID = set()


def _say_once(key, line, quiet):
    if not quiet and key not in _SAID:
        _SAID.add(key)
        print(line, file=sys.stderr)


def _identified(key, arrays, file, genuine):
    """The Dataset in these arrays, named for what they are rather than for the file they were in."""
    title, sha256 = TITLES[key], content_sha256(arrays)
    name, what, official = f"{key}-unverified", f"in the layout of {title}, but no known copy of it", False
    if sha256 in KNOWN:
        known_key, name, what, official = KNOWN[sha256]
        if known_key != key:
            raise DataError(f"{file} holds {what}, and {title} was expected. Give the file its own name.")
    elif genuine:
        name, what, official = key, f"official {title}", True
    elif content_sha256(arrays[1::2]) == KNOWN_LABELS[key]:
        what = f"official labels of {title} with pixels of no known copy"
    source = f"{what}, {len(arrays[0]):,} + {len(arrays[2]):,} images, from {file}"
    return _dataset(name, source, LABEL_NAMES[key], arrays, official, sha256)


def _dataset(name, source, label_names, arrays, official, sha256=None):
    for array in arrays:
        array.setflags(write=False)
    return Dataset(name, source, sha256 or content_sha256(arrays), official, label_names, *arrays)


def content_sha256(arrays):
    """SHA-256 over the arrays' values, one byte each in C order: the same however a file packs them."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, dtype=np.uint8))
    return digest.hexdigest()


def normalise(x):
    """uint8 images -> float32 in [0, 1]: an array of an array, the same bits in a tensor of a tensor."""
    if x.dtype != np.uint8:
        raise DataError(f"Expected uint8 images, found {x.dtype}: are they normalised already?")
    return tf.cast(x, tf.float32) * SCALE if tf.is_tensor(x) else np.asarray(x, np.float32) * SCALE


def epoch_order(n, seed, epoch):
    """The order of n examples in this epoch, int64 [n]: the same on every rank, without any message."""
    # RandomState, because its streams do not change between versions of NumPy.
    stream = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, epoch])))
    return stream.permutation(n).astype(np.int64)


def shard(order, rank, size):
    """This rank's part of the order: the parts are disjoint, and together they are all of it."""
    if not 0 <= rank < size:
        raise DataError(f"There is no rank {rank} of {size}: ranks count from 0 to size - 1.")
    return order[rank::size]


def steps_per_epoch(n, batch_size, size):
    """Steps in one epoch over n examples with batches of `batch_size` on each of `size` ranks.

    The same on all ranks, or those with one step more would wait for the others for ever.

    Raises:
      DataError: not even one step.
    """
    if min(batch_size, size) < 1:
        raise DataError(f"Batch size and world size must be at least 1, and are {batch_size} and {size}.")
    steps = (n // size) // batch_size
    if steps == 0:
        raise DataError(
            f"{n:,} examples do not fill one batch of {batch_size} on each of {size} ranks, which takes"
            f" {batch_size * size:,}: use a smaller batch or fewer ranks."
        )
    return steps


def batches(x, y, *, batch_size, seed, epoch, epochs=1, rank=0, size=1, start_step=0, augment=False):
    """This rank's batches of one epoch or more, in orders that depend on seed and epoch alone.

    At each step the N ranks together have the examples that one rank has with batches N times as large.
    What is left over of the last batch is dropped; each epoch's order is another, so no example is dropped
    for good.

    Args:
      x: [N, ...] array or tensor; uint8 is normalised to [0, 1], anything else passed as it is.
      y: [N, ...] array or tensor.
      batch_size: examples a step on this rank.
      seed, epoch: integers, not negative.
      epochs: how many, from `epoch` on. Beginning anew takes some 50 ms, too much for an epoch of few steps.
      start_step: steps to leave out at the start; nothing is read for them.
      augment: shift and reflect the images at random, see `augment.move`.
    Returns:
      tf.data.Dataset of (x [batch_size, ...], y [batch_size, ...]).
    Raises:
      DataError: lengths that differ, no such rank or step, too few examples for a step.
    """
    n = len(x)
    if len(y) != n:
        raise DataError(f"There must be as many x as y, and there are {n} and {len(y)}.")
    steps = steps_per_epoch(n, batch_size, size)
    if not 0 <= start_step <= steps:
        raise DataError(f"There is no step {start_step} in an epoch of {steps} steps.")
    orders = (epoch_order(n, seed, later) for later in range(epoch, epoch + epochs))
    mine = [shard(order, rank, size)[: steps * batch_size] for order in orders]
    parts = [np.reshape(mine, (-1, batch_size))[start_step:]]
    if augment:
        moves = [augmentation.moves(n, seed, epoch + later)[part] for later, part in enumerate(mine)]
        parts.append(np.reshape(moves, (-1, batch_size, 3))[start_step:])
    x, y = _tensor(x), _tensor(y)

    def gather(index, *moves):
        images = augmentation.move(tf.gather(x, index), *moves) if augment else tf.gather(x, index)
        return normalise(images) if x.dtype == tf.uint8 else images, tf.gather(y, index)

    # One thread gathers ahead of the training step, which is quick enough and leaves it the other cores.
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    return tf.data.Dataset.from_tensor_slices(tuple(parts)).map(gather).prefetch(4).with_options(options)


_TENSORS = {}  # id of an array -> its tensor, for as long as the array lives


def _tensor(values):
    """`values` as a tensor; an array that nobody can change is copied once, and not anew in each epoch."""
    if tf.is_tensor(values):
        return values
    values = np.asarray(values)
    with tf.device("CPU:0"):
        if values.flags.writeable:
            return tf.convert_to_tensor(values)
        key = id(values)
        if key not in _TENSORS:
            _TENSORS[key] = tf.convert_to_tensor(values)
            weakref.finalize(values, _TENSORS.pop, key, None)
        return _TENSORS[key]
