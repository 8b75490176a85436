"""Bring arrays to the ranks batch by batch, in an order that depends on seed and epoch alone."""

import weakref
from collections.abc import Callable
from typing import TypeAlias

from helpers.data.readers import DataError

import numpy as np
import tensorflow as tf

SCALE = np.float32(1 / 255)
NUM_WORDS = 4  # random numbers for the augmentation of one example

Array: TypeAlias = np.ndarray | tf.Tensor


def normalise(x: Array) -> Array:
    """Scale uint8 images to float32 in [0, 1]; an array gives an array, and a tensor a tensor with the same bits.

    Raises:
      DataError: The images are not uint8.
    """
    if x.dtype != np.uint8:
        raise DataError(f"Expected uint8 images, found {x.dtype}: are they normalised already?")
    return tf.cast(x, tf.float32) * SCALE if tf.is_tensor(x) else np.asarray(x, np.float32) * SCALE


def _stream(*entropy: int) -> np.random.RandomState:
    """Return the random stream of these numbers, from RandomState because NumPy keeps its streams unchanged."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(entropy)))


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of n examples in this epoch, int64 [n], which every rank computes without any message."""
    return _stream(seed, epoch).permutation(n).astype(np.int64)


def augmentation_words(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return random numbers for the augmentation of n examples in this epoch: int32 [n, 4], from 0 to 2**31 - 1.

    Those of an example depend on seed, epoch and the index of the example alone, so every rank computes the same.
    """
    return _stream(seed, epoch, 1).randint(0, 2**31, size=(n, NUM_WORDS), dtype=np.int32)


def shard(order: np.ndarray, rank: int, size: int) -> np.ndarray:
    """Return this rank's part of the order. The parts of all ranks are disjoint, and together they are the order.

    Raises:
      DataError: There is no such rank.
    """
    if not 0 <= rank < size:
        raise DataError(f"There is no rank {rank} of {size}: ranks count from 0 to size - 1.")
    return order[rank::size]


def steps_per_epoch(n: int, batch_size: int, size: int) -> int:
    """Return the number of steps in one epoch, which is the same on all ranks.

    If one rank had a step more than the others, it would wait for them in the all-reduce for ever.

    Args:
      n: Number of examples.
      batch_size: Examples a step on each rank.
      size: Number of ranks.

    Raises:
      DataError: The examples do not suffice for one step.
    """
    if min(batch_size, size) < 1:
        raise DataError(f"Batch size and world size must be at least 1, but they are {batch_size} and {size}.")
    steps = (n // size) // batch_size
    if steps == 0:
        raise DataError(
            f"{n:,} examples do not fill one batch of {batch_size} on each of {size} ranks, which takes"
            f" {batch_size * size:,}. Use a smaller batch or fewer ranks."
        )
    return steps


def batches(
    x: Array,
    y: Array,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    epochs: int = 1,
    rank: int = 0,
    size: int = 1,
    start_step: int = 0,
    augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
) -> tf.data.Dataset:
    """Return this rank's batches of one epoch or more.

    At each step N ranks together have the examples that one rank has with batches N times as large. Each epoch drops
    the examples that do not fill a batch. Because each epoch has its own order, no example is dropped for good.

    Args:
      x: [N, ...]. uint8 is normalised to [0, 1] after the augmentation; any other type is passed on as it is. Of an
        `np.memmap` only the examples of a batch are read.
      y: [N, ...].
      batch_size: Examples a step on this rank.
      seed: Of the order and of the augmentation; not negative.
      epoch: The first epoch, counted from 0.
      epochs: Number of epochs. A new pipeline takes some 50 ms to start, which is too long for an epoch of few steps.
      rank: This rank, counted from 0.
      size: Number of ranks.
      start_step: Number of steps that are left out at the start. Nothing is read for them.
      augment: A function of (images [B, H, W, C] as in `x`, words int32 [B, 4]) that returns images, such as
        `shift_and_reflect`. The words are independent random numbers from 0 to 2**31 - 1 that depend on seed, epoch and
        example alone, so any number of ranks augments an example in the same way.

    Returns:
      A tf.data.Dataset of (x [batch_size, ...], y [batch_size, ...]).

    Raises:
      DataError: `x` and `y` differ in length, there is no such rank or step, the examples do not suffice for one step,
        or `x` holds no images that could be augmented.
    """
    n = len(x)
    if len(y) != n:
        raise DataError(f"x and y must have the same length, but they have {n} and {len(y)} examples.")
    if augment is not None and np.ndim(x) != 4:
        raise DataError(f"Images to augment must be [N, H, W, C], but x has the shape {tuple(np.shape(x))}.")
    steps = steps_per_epoch(n, batch_size, size)
    if not 0 <= start_step <= steps:
        raise DataError(f"There is no step {start_step} in an epoch of {steps} steps.")

    parts = []
    for later in range(epoch, epoch + epochs):
        mine = shard(epoch_order(n, seed, later), rank, size)[: steps * batch_size]
        parts.append((mine,) if augment is None else (mine, augmentation_words(n, seed, later)[mine]))
    indices_and_words = tuple(
        np.concatenate(part).reshape(-1, batch_size, *part[0].shape[1:])[start_step:]
        for part in zip(*parts, strict=True)
    )
    x, y = _tensor(x), _tensor(y)

    def gather(index: tf.Tensor, words: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        images = _rows(x, index)
        if augment is not None:
            images = augment(images, words)
        return normalise(images) if images.dtype == tf.uint8 else images, _rows(y, index)

    # One thread gathers ahead of the training step. That is fast enough, and it leaves the other cores to the step.
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    return tf.data.Dataset.from_tensor_slices(indices_and_words).map(gather).prefetch(4).with_options(options)


_TENSORS: dict[int, tf.Tensor] = {}  # id of an array -> its tensor, for as long as the array lives


def _rows(values: Array, index: tf.Tensor) -> tf.Tensor:
    """Return these rows, of which TensorFlow would copy all to read some of a file that is mapped into memory."""
    if tf.is_tensor(values):
        return tf.gather(values, index)
    native = values.dtype.newbyteorder("=")  # TensorFlow takes the bytes of another order as they are
    rows = tf.numpy_function(lambda numbers: np.asarray(values[numbers], native), [index], native, stateful=False)
    return tf.ensure_shape(rows, [*index.shape, *values.shape[1:]])


def _tensor(values: Array) -> Array:
    """Return `values` as a tensor, or as they are if they lie in a file that is mapped into memory.

    A read-only array is copied once, and not again in each epoch.
    """
    if tf.is_tensor(values) or isinstance(values, np.memmap):
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
