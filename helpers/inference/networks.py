"""The functions of a Keras model that draw networks from its posterior and apply them."""

import math
import pickle
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from helpers.inference.afresh import afresh, tensors_of
from helpers.inference.posterior import drawable_layers, fixed, parts_of, sampler
from helpers.inference.settings import from_libraries, settings_of
from helpers.inference.stacked import prefix_of, stackable, stacked
from helpers.layers.noise import fold_in

import numpy as np
import tensorflow as tf
import tf_keras as keras

# Operations of TensorFlow that draw numbers, and those that change a variable.
DRAWS = re.compile("Random|Rng|Multinomial|TruncatedNormal|Stateful(Uniform|Standard)|PyFunc")
STATEFUL_DRAWS = re.compile(DRAWS.pattern.replace("Random", "(?<!Stateless)Random"))
CHANGES = re.compile("^Assign|^Resource(Scatter|Apply)")


class Networks(NamedTuple):
    """The functions of a model with L layers whose draws can be fixed, and the memory that they take."""

    weights: Callable  # (seed, first, count) -> L lists, each of kernels [count, ...] and, if any, biases [count, ...]
    outputs: Callable  # (x [n, ...], weights, block, (seed, first, count)) -> outputs [count, n, ...]
    weight_bytes: int  # bytes of the weights of one network
    shared_bytes: int  # bytes that all networks share for one example
    example_bytes: int  # bytes that one network needs of its own for one example
    stacked: bool  # whether all networks are computed at once, or one after the other
    random: bool  # whether networks differ
    traced: Sequence[Callable]  # the compiled functions among these


def compile_networks(model: keras.Model, x: Any, fixed_by_posterior: bool = False, trusted: bool = False) -> Networks:
    """Return the functions that draw networks from the posterior of a model and apply them.

    They are kept with the model, so TensorFlow compiles them once. They read the model's variables at each call. A
    model that has got another layer, or a layer with another setting, is compiled anew. A model with code of the
    reader's own is compiled at each call of this function, because only the reader knows on what such code depends.

    Args:
      model: a Keras model.
      x: inputs [N, ...], or a structure of them, of the types that the model takes.
      fixed_by_posterior: a Posterior yields the model, so stateless draws have seeds that belong to its network.
      trusted: this prediction has compiled the model before, so a reader's own code is not compiled anew.

    Raises:
      TypeError: an output of the model is not a tensor.
    """
    if not model.built:
        model(tf.nest.map_structure(lambda part: tf.constant(part[:1]), x), training=False)
    specs = tf.nest.map_structure(lambda part: tf.TensorSpec([None, *part.shape[1:]], tf.constant(part[:1]).dtype), x)
    known = trusted or from_libraries(model)
    kept = vars(model).get("_networks", dict)()
    made_for, networks = kept.get(fixed_by_posterior, (None, None))
    if made_for != (settings_of(model), str(specs)) or not known:
        operations = STATEFUL_DRAWS if fixed_by_posterior else DRAWS
        networks = _compile(model, specs, operations, None if from_libraries(model) else _few(x, specs))
        kept = {**kept, fixed_by_posterior: ((settings_of(model), str(specs)), networks)}
        # They are behind a function, so that Keras does not save them as a part of the model.
        vars(model)["_networks"] = lambda: kept
    return networks


def _few(x: Any, specs: Any) -> Any:
    """Return the first inputs of a call, two if the model takes any number."""
    sizes = [spec.shape[0] for spec in tf.nest.flatten(specs)]
    rows = np.minimum(np.arange(sizes[0] or 2), len(tf.nest.flatten(x)[0]) - 1)
    return tf.nest.map_structure(lambda part: tf.gather(tf.constant(part), rows), x)


def _compile(model: keras.Model, inputs: Any, random_operations: re.Pattern[str], few: Any) -> Networks:
    layers = drawable_layers(*model.layers, model)
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

    specs = _specs(weights.get_concrete_function().structured_outputs)
    before, after = prefix_of(model)
    at_once = stackable(after)
    sizes = (
        sum(math.prod(spec.shape[1:]) * spec.dtype.size for spec in tf.nest.flatten(specs)),
        4 * sum(math.prod(size or 1 for size in spec.shape[1:]) for spec in tf.nest.flatten(inputs)) + _bytes(before),
        _bytes(after or model.layers),
    )

    def through(stack: Sequence[keras.layers.Layer], x: Any) -> Any:
        for layer in stack:
            x = layer(x, training=False) if layer._expects_training_arg else layer(x)
        return x

    def one_network(x: Any, tensors: list) -> Any:
        with fixed(list(zip(layers, tensors, strict=True))):
            return tensors_of(through(after, x) if after else model(x, training=False))

    call: Any = None
    if not at_once:
        shared = _specs(tf.function(through).get_concrete_function(before, inputs).structured_outputs)
        single = tf.nest.map_structure(lambda spec: tf.TensorSpec(spec.shape[1:], spec.dtype), specs)
        call, drawing = _trace(model, one_network, random_operations, shared, single)
        if call is not None and few is not None:
            first = [[tensor[0] for tensor in tensors] for tensors in weights(0, 0, 1)]
            call, drawing = (call, drawing) if _repeats(one_network, call, few, first) else (None, True)
        if call is None:

            def eager(x: Any, tensors: list, block: tf.Tensor, draws: tuple[int, int, int]) -> Any:
                return afresh(model, list(zip(layers, tensors, strict=True)), x, draws, int(block))

            return Networks(weights, eager, *sizes, False, drawing or bool(layers), [weights])

    @tf.function(input_signature=[inputs, specs, whole])
    def outputs(x: Any, tensors: list[list[tf.Tensor]], block: tf.Tensor) -> Any:
        x = through(before, x)
        if at_once:
            return stacked(after, list(zip(layers, tensors, strict=True)), x)
        return _sequential(call, x, tensors, block)

    compiled = lambda x, tensors, block, _: outputs(x, tensors, block)  # noqa: E731
    return Networks(weights, compiled, *sizes, at_once, bool(layers), [weights, outputs])


def _repeats(function: Callable, compiled: Callable, *arguments: Any) -> bool:
    """Tell whether two calls of a function and one of its compiled form agree. If not, it draws numbers or counts."""
    python_state, state = random.getstate(), np.random.get_state()  # noqa: NPY002
    once, again = (function(*arguments) for _ in range(2))
    random.setstate(python_state)
    np.random.set_state(state)  # noqa: NPY002
    for one, *others in zip(*map(tf.nest.flatten, (once, again, compiled(*arguments))), strict=True):
        atol = 1e-3 * float(np.max(np.abs(one), initial=1e-6))
        if not all(np.allclose(one, other, 1e-3, atol, equal_nan=True) for other in others):
            return False
    return True


def _specs(tensors: Any) -> Any:
    return tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), tensors)


def _trace(
    model: keras.Model, function: Callable, random_operations: re.Pattern[str], *specs: Any
) -> tuple[Callable | None, bool]:
    """Compile the outputs of one network.

    Each `tf.function` within the model runs as Python meanwhile. Otherwise it would use the draws of an earlier call,
    or keep those of this one.

    Returns:
      (compiled, drawing): `compiled` is None if the model has to be called eagerly, because its call cannot be
      compiled, draws numbers or changes variables. `drawing` tells whether it draws numbers.

    Raises:
      TypeError: the model contains a function that was compiled for good, and that draws numbers.
    """
    losses = [(part, list(part._losses)) for part in parts_of(model) if hasattr(part, "_losses")]
    eagerly = tf.config.functions_run_eagerly()
    state = np.random.get_state()  # noqa: NPY002, because a reader's layer may draw with it
    tf.config.run_functions_eagerly(True)
    try:
        compiled = tf.function(function).get_concrete_function(*specs)
    except Exception:  # the eager call either succeeds or says in the model's own words what is wrong
        return None, True
    finally:
        tf.config.run_functions_eagerly(eagerly)
        for part, values in losses:
            part._losses[:] = values
    graph = compiled.graph.as_graph_def()
    functions = {function.signature.name: function.node_def for function in graph.library.function}
    nodes = [*graph.node, *(node for body in functions.values() for node in body)]
    called = [functions[node.attr["f"].func.name] for node in nodes if node.op.endswith("PartitionedCall")]
    if any(DRAWS.search(node.op) for body in called for node in body):
        raise TypeError(
            f"{model.name} contains a compiled function that draws numbers, as one loaded from a SavedModel does, "
            "so its draws cannot be fixed. Build the model from its code, and load its weights."
        )
    now = np.random.get_state()  # noqa: NPY002
    drawing = pickle.dumps(state) != pickle.dumps(now) or any(random_operations.search(node.op) for node in nodes)
    return None if drawing or any(CHANGES.search(node.op) for node in nodes) else compiled, drawing


def _sequential(call: Any, x: Any, weights: list[list[tf.Tensor]], block: tf.Tensor) -> Any:
    """Compute the outputs of one network after the other, each block by block, which stays in the processor's cache.

    Args:
      call: maps inputs [block, ...] and the weights of one network to outputs [block, ...].
      x: [N, ...], or a structure of such tensors.
      weights: lists of kernels [S, ...] and, if any, biases [S, ...].
      block: int32 scalar, the number of examples in a block.

    Returns:
      [S, N, ...], or a structure of them; S is 1 if there are no weights.
    """
    count, n = tf.shape(weights[0][0])[0] if weights else 1, tf.shape(tf.nest.flatten(x)[0])[0]
    blocks = -(-n // block)
    rows = tf.minimum(tf.range(blocks * block), n - 1)
    padded = tf.nest.map_structure(lambda tensor: tf.gather(tensor, rows), x)
    kinds = tf.nest.map_structure(lambda spec: spec.dtype, call.structured_outputs)

    def one(network: tf.Tensor) -> Any:
        tensors = tf.nest.map_structure(lambda tensor: tensor[network], weights)

        def part(place: tf.Tensor) -> Any:
            inputs = tf.nest.map_structure(lambda tensor: tensor[place * block : (place + 1) * block], padded)
            return call(inputs, tensors)

        return tf.map_fn(part, tf.range(blocks), fn_output_signature=kinds, parallel_iterations=1)

    # Two networks run at a time. While one of them uses a single core, the other can use the remaining ones.
    outputs = tf.map_fn(one, tf.range(count), fn_output_signature=kinds, parallel_iterations=2)
    shaped = lambda part: tf.reshape(part, tf.concat([[count, blocks * block], tf.shape(part)[3:]], 0))[:, :n]  # noqa: E731
    return tf.nest.map_structure(shaped, outputs)


def _bytes(layers: Sequence[keras.layers.Layer]) -> int:
    """Estimate the bytes that layers hold at a time for one example.

    This is three times the largest output, which a layer holds as its input, its product and its own output.
    """
    sizes = [1]
    for part in (part for layer in layers for part in parts_of(layer)):
        try:
            shapes = [output.shape[1:] for output in tf.nest.flatten(part.get_output_at(0))]
            sizes.append(sum(math.prod(size or 1 for size in shape) for shape in shapes))
        except (AttributeError, RuntimeError):  # no layer, or one that does not know its output; then take 1 MB
            sizes.append(2**18 if part in layers else 0)
    return 3 * 4 * max(sizes)
