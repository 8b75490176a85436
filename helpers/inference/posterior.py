"""Networks drawn from a model's posterior: their weights, and their outputs for a block of inputs.

A network's weights depend on the seed, its number and the layer alone, however many are drawn together. Its
outputs are the model's own, each Bayesian layer doing its deterministic operation with the drawn weights.
Where the model is a plain stack of layers, those before the first Bayesian one are computed once for all
networks, and if the Bayesian ones are all dense, all networks are computed together.
"""

import functools
import inspect
import math
from contextlib import contextmanager

from helpers.layers.noise import box_muller

import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras

_tfd = tfp.distributions
# By name, because TensorFlow may otherwise choose another algorithm on another device.
fold_in = functools.partial(tf.random.experimental.stateless_fold_in, alg="philox")


def bayesian_layers(*parts):
    """The layers among and in `parts`, at any depth, whose weights have a posterior."""
    found = {id(layer): layer for part in parts for layer in (part, *part.submodules)}
    return [layer for layer in found.values() if hasattr(layer, "kernel_posterior") or _is_joint(layer)]


def _is_joint(layer):
    """Whether kernel and bias have one posterior together."""
    return isinstance(layer, tfp.layers.DenseVariational)


def is_dense(layer):
    """Whether this Bayesian layer multiplies by a kernel [D, H]; the others convolve."""
    return _is_joint(layer) or hasattr(layer, "kernel_posterior") and not hasattr(layer, "kernel_size")


def stack_of(model):
    """The layers of a model in which each takes the output of the one before; None of any other model."""
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    try:
        links = [model.input, *(layer.output for layer in layers)]
        linked = all(layer.input is link for layer, link in zip(layers, links[:-1], strict=True))
        kerass = type(model).__module__.startswith("tf_keras.")  # with no `call` of its own
        return layers if linked and kerass and links[-1] is model.output else None
    except AttributeError:  # a layer used twice, or in no graph
        return None


# Weights


def source(layer):
    """(function of a seed to one draw of this layer's kernel and bias, their types)."""
    if not _is_joint(layer):
        posteriors = [p for p in (layer.kernel_posterior, layer.bias_posterior) if p is not None]
        draws = [_sampler(posterior) for posterior in posteriors]
        return lambda seed: [draw(fold_in(seed, i)) for i, draw in enumerate(draws)], [p.dtype for p in posteriors]
    width = layer.input_spec.axes[-1]
    posterior = layer._posterior(tf.zeros([1, width]))
    draw = _sampler(posterior)

    def split(seed):
        kernel, bias = tf.split(draw(seed), [width * layer.units, -1])
        return [tf.reshape(kernel, [width, layer.units]), bias][: 1 + layer.use_bias]

    return split, [posterior.dtype] * (1 + layer.use_bias)


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
    """Standard normal draws; TensorFlow's own operation takes longer, going the way of Box and Muller one by one."""
    count = math.prod(shape)
    words = tf.random.stateless_uniform([(count + 1) // 2], seed, None, None, tf.int32, alg="philox")
    return tf.cast(tf.reshape(box_muller(words)[:count], shape), dtype)


# Outputs


def one_by_one(layers, own, x, block):
    """Outputs of any layers: network by network, and for each block by block, which the cache then holds."""
    count, n = tf.shape(own[0][1][0])[0] if own else 1, tf.shape(x)[0]
    blocks = -(-n // block)
    padded = tf.pad(x, [[0, blocks * block - n]] + [[0, 0]] * (len(x.shape) - 1))

    def one(network):
        drawn = [(layer, [tensor[network] for tensor in tensors]) for layer, tensors in own]

        def part(place):
            outputs = padded[place * block : (place + 1) * block]
            with _fixed(drawn):
                for layer in layers:
                    outputs = apply(layer, outputs)
            return _checked(outputs)

        return tf.map_fn(part, tf.range(blocks), fn_output_signature=tf.float32, parallel_iterations=1)

    # Two networks at a time: what one of them does on a single core leaves the others to the next.
    outputs = tf.map_fn(one, tf.range(count), fn_output_signature=tf.float32, parallel_iterations=2)
    return tf.reshape(outputs, tf.concat([[count, blocks * block], tf.shape(outputs)[3:]], 0))[:, :n]


def together(layers, own, x):
    """Outputs of dense Bayesian layers and others of any kind, for all networks at once.

    The first product is one of x [n, D] with all kernels [T, D, H]. From there on the networks' outputs stand
    one after the other along the batch axis, so that the other layers need not know of them.
    """
    own, networks = {id(layer): tensors for layer, tensors in own}, 1
    for layer in layers:
        if id(layer) not in own:
            x = apply(layer, x)
            continue
        kernel, *bias = (tf.cast(tensor, layer.compute_dtype) for tensor in own[id(layer)])
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
    """What the layer does with these weights, activation included."""
    kernel = tf.cast(kernel, layer.compute_dtype)
    bias = bias if bias is None else tf.cast(bias, kernel.dtype)

    @tf.autograph.experimental.do_not_convert
    def call(inputs, *_, **__):
        inputs = tf.cast(inputs, kernel.dtype)
        before, after = ("NC", "") if getattr(layer, "data_format", None) == "channels_first" else ("N", "C")
        if is_dense(layer):
            # As a batch of one, because that product is the quicker one for a kernel of few columns.
            outputs = tf.matmul(inputs[None], kernel[None])[0]
        else:
            layout = before + "DHW"[-layer.rank :] + after
            options = {"data_format": layout, "dilations": layer.dilation_rate}
            outputs = tf.nn.convolution(inputs, kernel, layer.strides, layer.padding.upper(), **options)
        outputs = outputs if bias is None else tf.nn.bias_add(outputs, bias, f"{before}...{after}")
        return outputs if layer.activation is None else layer.activation(outputs)

    return call


def apply(layer, x):
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
