"""The compiled functions of a Keras model that draw networks from its posterior and apply them."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from helpers.inference.posterior import apply, bayesian_layers, sampler, sequential
from helpers.inference.stacked import stack_of, stackable, stacked
from helpers.layers.noise import fold_in

import numpy as np
import tensorflow as tf
import tf_keras as keras


class Networks(NamedTuple):
    """The compiled functions of a model with L Bayesian layers, and the memory that they take."""

    weights: Callable  # (seed, first, count) -> L lists, each of kernels [count, ...] and, if any, biases [count, ...]
    outputs: Callable  # (x [n, ...], weights, block) -> float32 [count, n, K], `block` examples at a time
    weight_bytes: int  # bytes of the weights of one network
    shared_bytes: int  # bytes that all networks share for one example
    example_bytes: int  # bytes that one network needs of its own for one example
    stacked: bool  # whether all networks are computed at once, or one after the other


def compile_networks(model: keras.Model, x: np.ndarray) -> Networks:
    """Return the functions that draw networks from the posterior of a model and apply them.

    They are kept with the model, so TensorFlow compiles them once. They read the model's variables at each call.

    Args:
      model: a Keras model of one input and one output.
      x: inputs [N, ...].

    Raises:
      TypeError: the output of the model is not one tensor.
    """
    dtype = model.inputs[0].dtype if getattr(model, "inputs", None) else tf.float32
    if not model.built:
        model(tf.cast(x[:1], dtype))
    made_for = (*map(id, model.submodules), x.shape[1:], dtype)
    kept = vars(model).get("_networks", lambda: (None, None))()
    if kept[0] != made_for:
        kept = made_for, _compile(model, tf.TensorSpec([None, *x.shape[1:]], dtype))
        # They are behind a function, so that Keras does not save them as a part of the model.
        vars(model)["_networks"] = lambda: kept
    return kept[1]


def _compile(model: keras.Model, inputs: tf.TensorSpec) -> Networks:
    layers = bayesian_layers(*model.layers, model)
    scalar, whole = tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int32)

    @tf.function(input_signature=[scalar, scalar, scalar], autograph=False)
    def weights(seed: tf.Tensor, first: tf.Tensor, count: tf.Tensor) -> list[list[tf.Tensor]]:
        # This stays outside the loop, because all networks share the scales, which are the softplus of variables.
        samplers = [sampler(layer) for layer in layers]

        def one(network: tf.Tensor) -> list[list[tf.Tensor]]:
            key = fold_in(tf.stack([seed, 0]), network)
            return [draw(fold_in(key, place)) for place, (draw, _) in enumerate(samplers)]

        types = [types for _, types in samplers]
        numbers = tf.range(first, first + count)
        return tf.map_fn(one, numbers, fn_output_signature=types, parallel_iterations=2) if layers else []

    structure = weights.get_concrete_function().structured_outputs
    specs = tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), structure)
    # In a stack the layers before the first Bayesian one are computed once for all networks.
    stack = stack_of(model) or [model]
    start = next((place for place, layer in enumerate(stack) if bayesian_layers(layer)), 0)
    before, after = stack[:start], stack[start:]
    at_once = stackable(after)

    @tf.function(input_signature=[inputs, specs, whole])
    def outputs(x: tf.Tensor, weights: list[list[tf.Tensor]], block: tf.Tensor) -> tf.Tensor:
        for layer in before:
            x = apply(layer, x)
        drawn = list(zip(layers, weights, strict=True))
        return stacked(after, drawn, x) if at_once else sequential(after, drawn, x, block)

    weight_bytes = sum(math.prod(spec.shape[1:]) * spec.dtype.size for spec in tf.nest.flatten(specs))
    shared_bytes = 4 * math.prod(size or 1 for size in inputs.shape[1:]) + _bytes(before)
    return Networks(weights, outputs, weight_bytes, shared_bytes, _bytes(after), at_once)


def _bytes(layers: Sequence[keras.layers.Layer]) -> int:
    """Estimate the bytes that layers hold at a time for one example.

    This is three times the largest output, which a layer holds as its input, its product and its own output.
    """
    sizes = [1]
    for part in (part for layer in layers for part in (layer, *layer.submodules)):
        try:
            shapes = [output.shape[1:] for output in tf.nest.flatten(part.get_output_at(0))]
            sizes.append(sum(math.prod(size or 1 for size in shape) for shape in shapes))
        except (AttributeError, RuntimeError):  # no layer, or one that does not know its output; then take 1 MB
            sizes.append(2**18 if part in layers else 0)
    return 3 * 4 * max(sizes)
