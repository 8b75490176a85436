"""Random numbers for weight noise: normal numbers, signs, and the keys of their streams.

A stream of random numbers is a Philox generator (Salmon, Moraes, Dror and Shaw 2011). Its numbers depend on a key and
on a counter alone, on every device.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

# Named, because TensorFlow may otherwise choose another algorithm on another device.
fold_in = functools.partial(tf.random.experimental.stateless_fold_in, alg="philox")
# The eight signs in each of the 256 octets.
_SIGNS = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32)


def box_muller(words: tf.Tensor) -> tf.Tensor:
    """Turn each random word into two standard normal numbers (Box and Muller 1958).

    Radius and angle have 16 bits each. Both lie in the middle of their 2^16 intervals, so no number is exactly zero.
    The variance is 1 - log(2) / 2^17 = 1 - 5.3e-6. No number is beyond 4.86, although one in 800,000 should be.

    Args:
      words: int32 [n], all bits of which are random.

    Returns:
      float32 [2 n]. Numbers i and i + n come from the same radius and angle.
    """
    halves = tf.reshape(tf.cast(tf.bitcast(words, tf.uint16), tf.float32), [2, -1])
    middles = halves + 0.5
    radius = tf.sqrt(-2.0 * tf.math.log(2.0**-16 * middles[0]))
    angle = 2.0 * math.pi * 2.0**-16 * middles[1]
    return tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=0)


def normal(
    generator: tf.random.Generator, shape: Sequence[int] | tf.TensorShape, dtype: tf.DType = tf.float32
) -> tf.Tensor:
    """Draw standard normal numbers from a generator, which goes on in its stream.

    TensorFlow's own operation takes longer, because it computes Box and Muller's transformation one by one.

    Args:
      generator: the stream of random numbers.
      shape: the shape of the result, without unknown sizes.
      dtype: the floating-point type of the result.
    """
    count = math.prod(shape)
    return _shaped(generator.uniform_full_int([(count + 1) // 2], dtype=tf.int32), shape, dtype)


def stateless_normal(seed: tf.Tensor, shape: Sequence[int] | tf.TensorShape, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Compute the standard normal numbers that belong to a seed.

    Args:
      seed: int64 [2], such as `fold_in` gives.
      shape: the shape of the result, without unknown sizes.
      dtype: the floating-point type of the result.
    """
    count = math.prod(shape)
    words = tf.random.stateless_uniform([(count + 1) // 2], seed, None, None, tf.int32, alg="philox")
    return _shaped(words, shape, dtype)


def _shaped(words: tf.Tensor, shape: Sequence[int] | tf.TensorShape, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(tf.reshape(box_muller(words)[: math.prod(shape)], shape), dtype)


def signs(
    generator: tf.random.Generator, rows: int | tf.Tensor, columns: int, dtype: tf.DType = tf.float32
) -> tf.Tensor:
    """Draw independent signs, +1 or -1 with equal probability, 32 of them from one random word.

    Args:
      generator: the stream of random numbers, which goes on.
      rows, columns: the shape of the result.
      dtype: the floating-point type of the result.

    Returns:
      [rows, columns].
    """
    count = rows * columns
    words = generator.uniform_full_int([(count + 31) // 32], dtype=tf.int32)
    octets = tf.gather(tf.constant(_SIGNS, dtype), tf.cast(tf.bitcast(words, tf.uint8), tf.int32))
    return tf.reshape(tf.reshape(octets, [-1])[:count], [rows, columns])


def seed_noise(model: keras.Model, seed: int, rank: int = 0, restart: bool = True) -> None:
    """Give the weight noise of each layer that owns a generator the key of (seed, rank, layer).

    The noise of two ranks must differ. If N ranks drew the same noise, averaging their gradients would not reduce it.

    Args:
      model: the model, whose layers' generators are changed in place.
      seed: the seed of the run.
      rank: the rank of this process.
      restart: begin the streams anew. With False they keep the place that a checkpoint has restored. All ranks have
        drawn equally many numbers, so the checkpoint of rank 0 serves all of them.
    """
    for index, layer in enumerate(layer for layer in model.submodules if hasattr(layer, "generator")):
        # TensorFlow's stateless hash mixes the three numbers, because no two triples may have the same Philox key.
        mixed = fold_in(tf.constant([seed, rank], tf.int64), index)
        key = tf.random.stateless_uniform([], mixed, None, None, tf.int64, alg="philox")
        counter = tf.zeros([2], tf.int64) if restart else layer.generator.state[:2]
        layer.generator.reset_from_key_counter(key, counter)
