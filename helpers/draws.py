"""Networks drawn from a model's posterior: their weights, and their outputs for a block of inputs.

A network's weights depend on the seed, its number and the layer alone, however many are drawn together. Its
outputs are the model's own, each Bayesian layer doing its deterministic operation with the drawn weights.
Where the model is a plain stack of layers, those before the first Bayesian one are computed once for all
networks, and if the Bayesian ones are all dense, all networks are computed together.
"""

import inspect
import math
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras

_tfd = tfp.distributions
_fold_in = tf.random.experimental.stateless_fold_in


class Networks(NamedTuple):
    """The compiled functions of a model with L Bayesian layers, and what they take in memory."""

    weights: Callable  # (seed, first, count) -> L lists, each of kernels [count, ...] and, if any, biases
    outputs: Callable  # (x [n, ...], weights, block) -> float32 [count, n, K], `block` examples at a time
    weight_bytes: int  # the weights of one network
    shared_bytes: int  # what all networks have in common for one example: its input to the first Bayesian layer
    example_bytes: int  # what one network has at a time for one example
    together: bool  # whether all networks are computed at once, or one after the other
    made_for: tuple


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
    kept = vars(model).get("_networks")
    if kept is None or kept().made_for != made_for:
        networks = _compile(model, tf.TensorSpec([None, *x.shape[1:]], dtype), made_for)
        # Behind a function, so that Keras does not take it for a part of the model that is to be saved.
        vars(model)["_networks"] = kept = lambda: networks
    return kept()


def _compile(model, inputs, made_for):
    layers = _bayesian(*model.layers)
    scalar, whole = tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int32)

    @tf.function(input_signature=[scalar, scalar, scalar])
    def weights(seed, first, count):
        # Outside the loop: a scale is the softplus of a variable, which all networks have in common.
        sources = [_source(layer) for layer in layers]

        def one(network):
            key = _fold_in(tf.stack([seed, 0]), network)
            return [draw(_fold_in(key, place)) for place, (draw, _) in enumerate(sources)]

        types = [types for _, types in sources]
        numbers = tf.range(first, first + count)
        return tf.map_fn(one, numbers, fn_output_signature=types, parallel_iterations=2) if layers else []

    drawn = weights.get_concrete_function().structured_outputs
    specs = tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), drawn)
    stack = _stack(model) or [model]
    start = next((i for i, layer in enumerate(stack) if _bayesian(layer)), 0)
    before, after = stack[:start], stack[start:]
    together = bool(layers) and all(_is_dense(layer) or not _bayesian(layer) for layer in after)

    @tf.function(input_signature=[inputs, specs, whole])
    def outputs(x, weights, block):
        for layer in before:
            x = _apply(layer, x)
        own = list(zip(layers, weights, strict=True))
        return _together(after, own, x) if together else _one_by_one(after, own, x, block)

    weight_bytes = sum(math.prod(s.shape[1:]) * s.dtype.size for s in tf.nest.flatten(specs))
    shared_bytes = 4 * math.prod(size or 1 for size in inputs.shape[1:]) + _bytes(before)
    return Networks(weights, outputs, weight_bytes, shared_bytes, _bytes(after), together, made_for)


def _bayesian(*parts):
    """The layers among and in `parts`, at any depth, whose weights have a posterior."""
    found = {id(layer): layer for part in parts for layer in (part, *part.submodules)}
    return [layer for layer in found.values() if hasattr(layer, "kernel_posterior") or _is_joint(layer)]


def _is_joint(layer):
    """Whether kernel and bias have one posterior together."""
    return isinstance(layer, tfp.layers.DenseVariational)


def _is_dense(layer):
    return _is_joint(layer) or hasattr(layer, "kernel_posterior") and not hasattr(layer, "kernel_size")


def _stack(model):
    """The layers of a model in which each takes the output of the one before; None of any other model."""
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    try:
        links = [model.input, *(layer.output for layer in layers)]
        linked = all(layer.input is link for layer, link in zip(layers, links, strict=False))
        own_call = type(model).__module__.startswith("tf_keras.")
        return layers if linked and own_call and links[-1] is model.output else None
    except AttributeError:  # a layer used twice, or in no graph
        return None


# Weights


def _source(layer):
    """(function of a seed to one draw of this layer's kernel and bias, their types)."""
    if _is_joint(layer):
        width = layer.input_spec.axes[-1]
        posterior = layer._posterior(tf.zeros([1, width]))
        draw = _sampler(posterior)

        def split(seed):
            kernel, bias = tf.split(draw(seed), [width * layer.units, -1])
            return [tf.reshape(kernel, [width, layer.units]), bias][: 1 + layer.use_bias]

        return split, [posterior.dtype] * (1 + layer.use_bias)
    posteriors = [posterior for posterior in (layer.kernel_posterior, layer.bias_posterior) if posterior]
    draws = [_sampler(posterior) for posterior in posteriors]
    return lambda seed: [draw(_fold_in(seed, i)) for i, draw in enumerate(draws)], [p.dtype for p in posteriors]


def _sampler(posterior):
    """A function of a seed to one draw from this distribution."""
    factors = posterior.distribution if isinstance(posterior, _tfd.Independent) else posterior
    if isinstance(factors, _tfd.Deterministic):
        loc = tf.convert_to_tensor(factors.loc)
        return lambda seed: loc
    if isinstance(factors, _tfd.Normal):
        loc, scale = tf.convert_to_tensor(factors.loc), tf.convert_to_tensor(factors.scale)
        return lambda seed: loc + scale * _normals(factors.batch_shape, seed, factors.dtype)
    return lambda seed: tf.convert_to_tensor(posterior.sample(seed=tf.cast(seed, tf.int32)))


def _normals(shape, seed, dtype):
    """Standard normal draws after Box and Muller (1958).

    TensorFlow's own operation goes the same way number by number, and takes nearly twice the time that these
    few take on the processor's vector instructions.
    """
    size = math.prod(shape)
    uniform = tf.random.stateless_uniform([2, (size + 1) // 2], seed, dtype=dtype)  # in [0, 1)
    radius, angle = tf.sqrt(-2.0 * tf.math.log(1.0 - uniform[0])), 2.0 * math.pi * uniform[1]
    return tf.reshape(tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], 0)[:size], shape)


# Outputs


def _one_by_one(layers, own, x, block):
    """Outputs of any layers: network by network, and for each block by block, which the cache then holds."""
    count, n = tf.shape(own[0][1][0])[0] if own else 1, tf.shape(x)[0]
    blocks = -(-n // block)
    padding = tf.zeros(tf.concat([[blocks * block - n], tf.shape(x)[1:]], 0), x.dtype)
    padded = tf.reshape(tf.concat([x, padding], 0), tf.concat([[blocks, block], tf.shape(x)[1:]], 0))

    def one(network):
        drawn = [(layer, [tensor[network] for tensor in tensors]) for layer, tensors in own]

        def part(place):
            outputs = tf.ensure_shape(padded[place], [None, *x.shape[1:]])
            with _fixed(drawn):
                for layer in layers:
                    outputs = _apply(layer, outputs)
            return _checked(outputs)

        return tf.map_fn(part, tf.range(blocks), fn_output_signature=tf.float32, parallel_iterations=1)

    outputs = tf.map_fn(one, tf.range(count), fn_output_signature=tf.float32, parallel_iterations=1)
    return tf.reshape(outputs, tf.concat([[count, blocks * block], tf.shape(outputs)[3:]], 0))[:, :n]


def _together(layers, own, x):
    """Outputs of dense Bayesian layers and others of any kind, for all networks at once.

    The first product is one of x [n, D] with all kernels [T, D, H]. From there on the networks' outputs stand
    one after the other along the batch axis, so that the other layers need not know of them.
    """
    own, networks = {id(layer): tensors for layer, tensors in own}, 1
    for layer in layers:
        if id(layer) not in own:
            x = _apply(layer, x)
            continue
        kernel, *bias = own[id(layer)]
        rows = tf.reshape(tf.cast(x, kernel.dtype), [networks, -1, kernel.shape[1]])
        rows = tf.matmul(rows, kernel) + (bias[0][:, None] if bias else 0.0)
        networks, shape = tf.shape(kernel)[0], x.shape[1:-1] + kernel.shape[2:]
        x = tf.reshape(rows, tf.concat([[-1], tf.shape(x)[1:-1], kernel.shape[2:]], 0))
        x = tf.ensure_shape(x, [None, *shape])
        x = x if layer.activation is None else layer.activation(x)
    return tf.reshape(_checked(x), tf.concat([[networks, -1], tf.shape(x)[1:]], 0))


@contextmanager
def _fixed(drawn):
    """In this context a layer's `call` is its deterministic operation with the weights that go with it."""
    for layer, weights in drawn:
        vars(layer)["call"] = _operation(layer, *weights)
    try:
        yield
    finally:
        for layer, _ in drawn:
            del vars(layer)["call"]


def _operation(layer, kernel, bias=None):
    @tf.autograph.experimental.do_not_convert
    def call(inputs, *_, **__):
        inputs = tf.cast(inputs, kernel.dtype)
        before, after = ("NC", "") if getattr(layer, "data_format", None) == "channels_first" else ("N", "C")
        if _is_dense(layer):
            outputs = tf.matmul(inputs[None], kernel[None])[0]
        else:
            layout = before + "DHW"[-layer.rank :] + after
            options = {"data_format": layout, "dilations": layer.dilation_rate}
            outputs = tf.nn.convolution(inputs, kernel, layer.strides, layer.padding.upper(), **options)
        outputs = outputs if bias is None else tf.nn.bias_add(outputs, bias, f"{before}...{after}")
        return outputs if layer.activation is None else layer.activation(outputs)

    return call


def _apply(layer, x):
    """The layer or model as it is when used and not trained."""
    takes_training = "training" in inspect.signature(layer.call).parameters
    return layer(x, training=False) if takes_training else layer(x)


def _checked(outputs):
    if not tf.is_tensor(outputs):
        raise TypeError(
            f"expected a model whose output is one tensor [N, K], found {type(outputs).__name__}: of several"
            " outputs choose one, and leave out a layer that makes a distribution"
        )
    return tf.cast(outputs, tf.float32)


def _bytes(layers):
    """What layers hold at a time for one example: three times the largest output, as input, product, output."""
    sizes = [0]
    for layer in layers:
        try:
            shapes = layer.output_shape if isinstance(layer.output_shape, list) else [layer.output_shape]
            sizes.append(sum(math.prod(size or 1 for size in shape[1:]) for shape in shapes))
        except (AttributeError, RuntimeError):
            sizes.append(2**18)  # not known, as in a model of the reader's own: 1 MB
    return 3 * 4 * max(sizes)
