"""The slow path, for models whose call draws numbers, changes variables or contains a `tf.function`: eager calls.

Each network has a call of its own, for which the random numbers begin anew at (seed, number of the network). So equal
arguments give equal results, and every block of examples sees the same network.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from helpers.inference.posterior import Drawn, fixed, parts_of
from helpers.layers.noise import live_generators

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tensorflow.python.eager import context
from tensorflow_probability import distributions as tfd


def afresh(model: keras.Model, drawn: Drawn, x: Any, draws: tuple[int, int, int], block: int) -> Any:
    """Call the model once for each network and block of examples.

    Args:
      model: the model.
      drawn: the layers whose draws can be fixed, with their weights [S, ...].
      x: [N, ...], or a structure of such tensors.
      draws: (seed, number of the first network, S).
      block: the number of examples in a call. The last block is filled with its last example.

    Returns:
      [S, N, ...], or a structure of them.
    """
    seed, first, count = draws
    n, results = len(tf.nest.flatten(x)[0]), []
    tf.random.get_global_generator()  # which TensorFlow makes at its first use
    with _as_it_was(model):
        variables = [(variable, variable.value()) for variable in model.variables]
        generators = live_generators()
        for network in range(count):
            weights = [(layer, [tensor[network] for tensor in tensors]) for layer, tensors in drawn]
            parts = []
            for start in range(0, n, block):
                rows = np.minimum(np.arange(start, start + block), n - 1)
                part = tf.nest.map_structure(lambda tensor, rows=rows: tf.gather(tensor, rows), x)
                _begin(model, generators, seed, first + network)
                with fixed(weights):
                    parts.append(tensors_of(model(part, training=False)))
                for variable, value in variables:
                    variable.assign(value)
            results.append(tf.nest.map_structure(lambda *outputs: tf.concat(outputs, 0)[:n], *parts))
    return tf.nest.map_structure(lambda *outputs: tf.stack(outputs), *results)


def tensors_of(outputs: Any) -> Any:
    """Return the outputs of a model as tensors, in at least float32.

    A layer that makes a distribution says itself which tensor stands for it, by `convert_to_tensor_fn`. Another
    distribution is represented by its mean.

    Raises:
      TypeError: an output is neither a tensor nor a distribution.
    """

    def tensor(output: Any) -> tf.Tensor:
        if isinstance(output, tfd.Distribution) and not hasattr(output, "_value"):
            output = output.mean()
        if isinstance(output, tf.RaggedTensor | tf.SparseTensor) or output is None:
            raise TypeError(
                f"expected outputs that are tensors [N, ...], found {type(output).__name__}. "
                "Let the model return a dense tensor, or a structure of them."
            )
        output = tf.convert_to_tensor(output)
        return tf.cast(output, tf.float32) if output.dtype in (tf.float16, tf.bfloat16) else output

    return tf.nest.map_structure(tensor, outputs)


def _begin(model: keras.Model, generators: list[tf.random.Generator], seed: int, network: int) -> None:
    """Begin all random numbers anew, and reset the states of recurrent layers."""
    numbers = np.random.SeedSequence([seed % 2**64, network])
    number = int(numbers.generate_state(1)[0])
    tf.random.set_seed(number)
    np.random.seed(number)  # noqa: NPY002, because a reader's layer may draw with it
    random.seed(number)
    for generator, own in zip(generators, numbers.spawn(len(generators)), strict=True):
        generator.state.assign(own.generate_state(generator.state.shape[0], np.uint64).view(np.int64))
    for layer in _stateful(model):
        layer.reset_states()


def _stateful(model: keras.Model) -> list[keras.layers.Layer]:
    return [part for part in parts_of(model) if getattr(part, "stateful", False) and hasattr(part, "states")]


@contextmanager
def _as_it_was(model: keras.Model) -> Iterator[None]:
    """Run every `tf.function` as Python in this context; afterwards put back all that a call changes in the model."""
    eagerly, kept = tf.config.functions_run_eagerly(), context.context()
    seeds, python_state = (kept._seed, getattr(kept, "_rng", None)), random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002
    generators = [(generator, generator.state.numpy()) for generator in live_generators()]
    variables = [(variable, variable.numpy()) for variable in model.variables]
    states = [(state, state.numpy()) for layer in _stateful(model) for state in tf.nest.flatten(layer.states)
              if isinstance(state, tf.Variable)]  # fmt: skip
    losses = [(part, list(part._losses)) for part in parts_of(model) if hasattr(part, "_losses")]
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(eagerly)
        kept._seed, kept._rng = seeds
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        for generator, state in generators:
            generator.state.assign(state)
        for variable, value in (*variables, *states):
            variable.assign(value)
        for part, values in losses:
            part._losses[:] = values
