"""Random numbers for weight noise: normal numbers, signs, and the keys of their streams.

A stream of random numbers is a Philox generator (Salmon, Moraes, Dror and Shaw 2011). Its numbers depend on a key and
on a counter alone, on every device.
"""

import contextlib
import functools
import gc
import math
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from helpers.layers.parts import modules_of

import numpy as np
import tensorflow as tf
import tf_keras as keras

# Named, because TensorFlow may otherwise choose another algorithm on another device.
fold_in = functools.partial(tf.random.experimental.stateless_fold_in, alg="philox")
SEEDS = 2**31 - 1  # TensorFlow takes its global seed modulo this number
_STATEFUL = re.compile("(?<!Stateless)Random|Multinomial|TruncatedNormal")  # operations that read TensorFlow's seed
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


def step_key(seed: int, number: int, step: tf.Tensor) -> tf.Tensor:
    """Return the key, int64 [2], of the weights that are drawn as the `number`-th at a training step, an int64 scalar.

    Draws of all ranks are counted together. So N ranks with one draw each have the keys of one rank with N draws.
    """
    stream = fold_in(tf.constant([seed, 0], tf.int64), tf.constant(-2, tf.int64))
    return fold_in(fold_in(stream, tf.constant(number, tf.int64)), step)


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


def saved_generators(model: keras.Model) -> list[tf.random.Generator]:
    """Return the generators that a checkpoint of `model` holds, those of layers with a `generator` first."""
    layers = (getattr(layer, "generator", None) for layer in modules_of(model))
    found = [part for part in (*layers, *tf.train.TrackableView(model).descendants()) if _is_generator(part)]
    return list({id(generator): generator for generator in found}.values())


def seed_noise(model: keras.Model, seed: int, rank: int = 0, restart: bool = True) -> None:
    """Give each generator that a checkpoint of `model` holds the key of (seed, rank, number of the generator).

    The noise of two ranks must differ. If N ranks drew the same noise, averaging their gradients would not reduce it.
    Layers without such a generator are for `seed_operations`.

    Args:
      model: the model, whose layers' generators are changed in place.
      seed: the seed of the run.
      rank: the rank of this process.
      restart: begin the streams anew. With False they keep the place that a checkpoint has restored. All ranks have
        drawn equally many numbers, so the checkpoint of rank 0 serves all of them.
    """
    # TensorFlow's stateless hash mixes the three numbers, because no two triples may have the same Philox key.
    _reset(saved_generators(model), tf.constant([seed, rank], tf.int64), restart)


def seed_operations(model: keras.Model, seed: int, rank: int, step: int) -> None:
    """Seed the noise of which no checkpoint holds the state by (seed, rank, step).

    This is the noise of TensorFlow's random operations, which Keras' dropout, tfp.layers and a reader's own layers
    draw from, of Keras' random augmentation layers, and of the global generators of TensorFlow, NumPy and Python. It
    sets TensorFlow's global seed, which functions that are traced afterwards read.

    Args:
      model: the model, whose layers' generators are changed in place.
      seed: the seed of the run.
      rank: the rank of this process.
      step: the step at which the run starts or goes on.
    """
    mixed = _mixed(seed, step)
    start = int(tf.random.stateless_uniform([], mixed, 0, SEEDS, tf.int64, alg="philox"))
    # The sum gives each rank another seed. A hash into so few seeds would give the same one to some of many ranks.
    own = (start + rank) % SEEDS
    tf.random.set_seed(own)
    np.random.seed(own)  # noqa: NPY002, because a reader's layer may draw with it
    random.seed(own)
    _forget_traces()
    unsaved = []
    for layer in modules_of(model):
        source: Any = getattr(layer, "_random_generator", None)
        if hasattr(source, "_maybe_init"):  # Keras makes it late, and keeps it out of checkpoints
            source._maybe_init()
            unsaved.append(source._generator)
    with contextlib.suppress(RuntimeError):  # it does not exist if only deterministic operations are allowed
        unsaved.append(tf.random.get_global_generator())
    _reset([part for part in unsaved if _is_generator(part)], fold_in(mixed, rank), restart=True)


def live_generators() -> list[tf.random.Generator]:
    """Return all generators of this process, in the order in which they were made, whatever owns them."""
    found = [part for part in gc.get_objects() if type(part) is tf.random.Generator]
    return sorted(found, key=lambda generator: int(generator.state._unique_id.rpartition("_")[2]))


def seed_captured(function: Any, model: keras.Model, seed: int, rank: int, step: int) -> None:
    """Seed the generators that a compiled function draws from, and that are out of reach of the other functions.

    Such a generator belongs to no layer: a function of the reader's sees it in its closure or in an object.

    Args:
      function: a tf.types.experimental.ConcreteFunction.
      model, seed, rank, step: as `seed_operations` takes them.
    """
    known = {id(generator.state) for generator in saved_generators(model)}
    places = {id(tensor) for tensor in function.captured_inputs}
    used = [found for found in live_generators() if id(found.state.handle) in places and id(found.state) not in known]
    _reset(used, fold_in(fold_in(_mixed(seed, step), rank), -1), restart=True)


def _mixed(seed: int, step: int) -> tf.Tensor:
    return fold_in(fold_in(tf.constant([seed, 0], tf.int64), -1), step)


@contextlib.contextmanager
def global_seed_kept() -> Iterator[None]:
    """Give the global generators of TensorFlow, NumPy and Python their states back at the end.

    Otherwise models that are built after two runs with one seed would start with the same weights.
    """
    _, following = tf.compat.v1.get_seed(None)  # None if there is no global seed
    states = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        tf.random.set_seed(following)
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])


def _forget_traces() -> None:
    """Let each tf.function that draws numbers be traced anew, because a trace keeps the seed of its time."""
    compiled = type(tf.function(lambda: None))
    for function in gc.get_objects():
        # TensorFlow has no public way. Without these attributes, the earlier trace is used.
        if type(function) is not compiled or not hasattr(getattr(function, "_function_cache", None), "_primary"):
            continue
        graphs = [trace.graph.as_graph_def() for trace in function._function_cache._primary.values()]
        bodies = [body for graph in graphs for body in (graph.node, *(f.node_def for f in graph.library.function))]
        if any(_STATEFUL.search(node.op) for body in bodies for node in body):
            function._function_cache.clear()


def _is_generator(part: object) -> bool:
    return isinstance(part, tf.random.Generator)


def _reset(generators: list[tf.random.Generator], mixed: tf.Tensor, restart: bool) -> None:
    """Give each generator the key that belongs to the seed `mixed`, an int64 [2], and to its place in the list."""
    for index, generator in enumerate(generators):
        key = tf.random.stateless_uniform([], fold_in(mixed, index), None, None, tf.int64, alg="philox")
        counter = generator.state[:-1]  # the key is the last number
        generator.reset_from_key_counter(key, tf.zeros_like(counter) if restart else counter)
