"""What methods share that draw weights: seeds, one vector for all weights, and a model that holds drawn weights."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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


def claim(variables: Sequence[tf.Variable], optimizer: Any) -> tf.DType:
    """Note which optimiser makes the variables the means of its posterior, and return their type.

    Raises:
      ValueError: they are not all float32 or all float64, or `refuse_constraints` does.
    """
    types = {variable.dtype for variable in variables}
    if len(types) > 1 or not types <= {tf.float32, tf.float64}:
        raise ValueError(f"expected float32 or float64 variables, found {sorted(kind.name for kind in types)}")
    refuse_constraints(variables)
    for variable in variables:
        variable.means_of = id(optimizer)
    return types.pop()


def refuse_constraints(variables: Sequence[tf.Variable]) -> None:
    """Raise a ValueError if a variable has a constraint, which normal draws would not keep."""
    if bound := [variable.name for variable in variables if getattr(variable, "constraint", None)]:
        raise ValueError(f"expected weights without a constraint, which normal draws do not keep, found one on {bound}")


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
