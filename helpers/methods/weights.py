"""What methods share that draw weights: seeds, one vector for all weights, and a model that holds drawn weights."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from helpers.layers.noise import fold_in

import numpy as np
import tensorflow as tf


def network_seed(seed: int, number: int) -> tf.Tensor:
    """Return the seed of network `number`, int64 [2], for `noise.fold_in` and `noise.stateless_normal`."""
    return fold_in(tf.constant([seed, 0], tf.int64), tf.constant(number, tf.int64))


def flattened(parts: Sequence[tf.Variable | tf.Tensor]) -> tf.Tensor:
    """Return all elements of the parts in one vector."""
    return tf.concat([tf.reshape(part, [-1]) for part in parts], 0)


def shaped(vector: tf.Tensor, like: Sequence[tf.Variable | tf.Tensor]) -> list[tf.Tensor]:
    """Undo `flattened`: divide a vector into tensors of the shapes of `like`."""
    parts = tf.split(vector, [math.prod(part.shape) for part in like])
    return [tf.reshape(part, other.shape) for part, other in zip(parts, like, strict=True)]


@contextmanager
def assigned(variables: Sequence[tf.Variable], values: Sequence[np.ndarray | tf.Tensor]) -> Iterator[None]:
    """Give the variables these values in this context, and their old values at the end, after an exception too."""
    kept = [variable.numpy() for variable in variables]
    try:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(tf.cast(value, variable.dtype))
        yield
    finally:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)
