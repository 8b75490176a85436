"""Monte-Carlo predictive distribution of a Bayesian model, on one rank or split over ranks.

    P = sample_probabilities(model, x_test)       # [S, N, C]
    P.mean(axis=0)                                # the predictive distribution, [N, C]

p(y | x, data) is the mean of p(y | x, w) over the posterior of the weights w (Blundell et al. 2015, section 2);
here over S independent draws of all weights, the inputs having each draw in common. A forward pass of a
flipout layer is no such draw: it gives every example signs of its own (Wen et al. 2018, equation 4), so that
its outputs for two inputs are not those of one network.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from helpers import data
from helpers.distributed import ALONE
from helpers.inference import posterior as draws
from helpers.progress import bar

import numpy as np
import tensorflow as tf

MB = 2**20
DRAWS = 32  # at a time: more of them cost memory and save no time
PASSES = 8192  # draws times examples in one call, which costs about a millisecond
CACHE = 12 * MB  # what a block of examples may hold, to stay near the processor


def sample_outputs(model, x, num_draws=300, *, seed=0, budget_mb=512, progress=False, world=ALONE):
    """Outputs of `num_draws` networks drawn from the model's posterior, each applied to every input.

    The model is any Keras model whose outputs for one example do not depend on the others, with Bayesian
    layers of `helpers.layers` or tfp.layers, at any depth. Other layers are used as in inference: dropout off,
    batch normalisation by its moving averages.

    Args:
      model: a Keras model of one input and one output [N, K].
      x: [N, ...]; uint8 images, which are scaled to [0, 1], or what the model takes, which is left as it is.
      num_draws: S, at least 1.
      seed: int. Draw s depends on the seed and s alone: not on the budget, on x or on the number of ranks.
      budget_mb: a bound on what is held in memory besides x and the result, in MB of 2^20 bytes, as far as
        one draw and one example at a time fit in it.
      progress: show a bar, on rank 0.
      world: a `distributed.World` to split the draws over. Every rank calls with the same arguments, and
        every rank gets the whole result.

    Returns:
      float32 array [S, N, K]; [1, N, K] if the model has no Bayesian layer.

    Raises:
      ValueError: no draws, no examples, or examples of another shape than the model's.
      TypeError: the model's output is not one tensor.
      distributed.RankFailure: another rank has failed.
    """
    failure = outputs = None
    try:
        outputs = _outputs_of_rank(model, np.asarray(x), num_draws, seed, int(budget_mb * MB), progress, world)
    except Exception as error:
        failure = error
    world.agree(failure)
    # Of a deterministic model only one rank, whichever it is, has an output.
    return world.gather(outputs)


def sample_probabilities(model, x, num_draws=300, **options):
    """`sample_outputs` of a model that gives logits, as probabilities: their softmax over the last axis."""
    logits = sample_outputs(model, x, num_draws, **options)
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    return logits


def _outputs_of_rank(model, x, num_draws, seed, budget, progress, world):
    _check(model, x, num_draws)
    networks = compile_networks(model, x)
    num_draws = num_draws if networks.weight_bytes else 1
    begin, end = (part * num_draws // world.size for part in (world.rank, world.rank + 1))
    at_once, rows, block = _chunks(networks, len(x), end - begin, budget)
    outputs = None
    with bar(total=(end - begin) * len(x), desc="forward passes", disable=not progress) as ticker:
        # A rank without a draw computes one output, and keeps nothing but its shape.
        for first in range(begin, max(end, begin + 1), at_once):
            count = min(at_once, end - first) or 1
            weights = networks.weights(seed, first, count)
            for start in range(0, len(x), rows):
                part = x[start : start + rows]
                part = networks.outputs(data.normalise(part) if part.dtype == np.uint8 else part, weights, block)
                if outputs is None:
                    outputs = np.empty([end - begin, len(x), *part.shape[2:]], np.float32)
                outputs[first - begin : first - begin + count, start : start + rows] = part[: end - first]
                ticker.update(count * part.shape[1])
    return outputs


def _check(model, x, num_draws):
    if num_draws < 1:
        raise ValueError(f"expected at least 1 draw, found num_draws={num_draws}")
    try:
        shape = model.input_shape
    except (AttributeError, RuntimeError):  # a model that takes any shape until it is called
        shape = x.shape
    if isinstance(shape, list):
        raise ValueError(f"expected a model of one input, found one of {len(shape)}")
    expected = shape[1:]
    fits = len(expected) == x.ndim - 1 and all(a in (None, b) for a, b in zip(expected, x.shape[1:], strict=True))
    if not (fits and len(x)):
        shape = ", ".join(["N"] + [str(size) for size in expected])
        raise ValueError(f"expected x [{shape}] of at least one example, found {list(x.shape)}")


def _chunks(networks, num_examples, num_draws, budget):
    """(draws at a time, examples in one call, examples in one block) that stay within `budget` bytes."""
    # Half of it for weights: those of all draws are there twice when they are stacked, some also in the making.
    at_once = max(1, min(DRAWS, num_draws, budget // 4 // max(1, networks.weight_bytes) - 4))
    block_bytes = networks.example_bytes * (at_once if networks.together else 1)
    block = max(1, min(CACHE, budget // 8) // block_bytes)  # of each of two networks at a time
    rows = block if networks.together else PASSES // at_once
    rows = max(1, min(rows, num_examples, budget // 4 // networks.shared_bytes))
    # In blocks of equal size, because the last one is filled up.
    return at_once, rows, math.ceil(rows / math.ceil(rows / block))


class Networks(NamedTuple):
    """The compiled functions of a model with L Bayesian layers, and what they take in memory."""

    weights: Callable  # (seed, first, count) -> L lists, each of kernels [count, ...] and, if any, biases
    outputs: Callable  # (x [n, ...], weights, block) -> float32 [count, n, K], `block` examples at a time
    weight_bytes: int  # the weights of one network
    shared_bytes: int  # what the networks have in common for one example
    example_bytes: int  # what one network has of its own for one example
    together: bool  # whether all networks are computed at once, or one after the other


def compile_networks(model, x):
    """The functions that draw networks from the posterior of `model` and apply them.

    They are kept with the model, to be compiled once, and read its variables anew at each call.

    Args:
      model: a Keras model of one input and one output.
      x: array [N, ...] of inputs.

    Returns:
      `Networks`.

    Raises:
      TypeError: the model's output is not one tensor.
    """
    dtype = model.inputs[0].dtype if getattr(model, "inputs", None) else tf.float32
    if not model.built:
        model(tf.cast(x[:1], dtype))
    made_for = (*map(id, model.submodules), x.shape[1:], dtype)
    kept = vars(model).get("_networks", lambda: (None, None))()
    if kept[0] != made_for:
        kept = made_for, _compile(model, tf.TensorSpec([None, *x.shape[1:]], dtype))
        # Behind a function, so that Keras does not take it for a part of the model that is to be saved.
        vars(model)["_networks"] = lambda: kept
    return kept[1]


def _compile(model, inputs):
    layers = draws.bayesian_layers(*model.layers, model)
    scalar, whole = tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int32)

    @tf.function(input_signature=[scalar, scalar, scalar], autograph=False)
    def weights(seed, first, count):
        # Outside the loop: a scale is the softplus of a variable, which all networks have in common.
        sources = [draws.source(layer) for layer in layers]

        def one(network):
            key = draws.fold_in(tf.stack([seed, 0]), network)
            return [draw(draws.fold_in(key, place)) for place, (draw, _) in enumerate(sources)]

        types = [types for _, types in sources]
        numbers = tf.range(first, first + count)
        return tf.map_fn(one, numbers, fn_output_signature=types, parallel_iterations=2) if layers else []

    drawn = weights.get_concrete_function().structured_outputs
    specs = tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), drawn)
    stack = draws.stack_of(model) or [model]
    start = next((i for i, layer in enumerate(stack) if draws.bayesian_layers(layer)), 0)
    before, after = stack[:start], stack[start:]
    together = bool(layers) and all(draws.is_dense(layer) or not draws.bayesian_layers(layer) for layer in after)

    @tf.function(input_signature=[inputs, specs, whole])
    def outputs(x, weights, block):
        for layer in before:
            x = draws.apply(layer, x)
        own = list(zip(layers, weights, strict=True))
        return draws.together(after, own, x) if together else draws.one_by_one(after, own, x, block)

    weight_bytes = sum(math.prod(s.shape[1:]) * s.dtype.size for s in tf.nest.flatten(specs))
    shared_bytes = 4 * math.prod(size or 1 for size in inputs.shape[1:]) + _bytes(before)
    return Networks(weights, outputs, weight_bytes, shared_bytes, _bytes(after), together)


def _bytes(layers):
    """What layers hold at a time for one example: three times the largest output, as input, product, output."""
    sizes = [1]
    for part in (part for layer in layers for part in (layer, *layer.submodules)):
        try:
            shapes = [output.shape[1:] for output in tf.nest.flatten(part.get_output_at(0))]
            sizes.append(sum(math.prod(size or 1 for size in shape) for shape in shapes))
        except (AttributeError, RuntimeError):  # no layer, or one that does not know: then as much as 1 MB
            sizes.append(2**18 if part in layers else 0)
    return 3 * 4 * max(sizes)
