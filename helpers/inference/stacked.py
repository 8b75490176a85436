"""The fast path: all networks at once, for a plain stack of known layers whose Bayesian ones are dense."""

from collections.abc import Sequence

from helpers import layers as own
from helpers.inference.posterior import Drawn, bayesian_layers, drawable_layers

import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras

kl, tfpl, functions = keras.layers, tfp.layers, keras.activations
DENSE = {
    tfpl.DenseFlipout, tfpl.DenseReparameterization, tfpl.DenseLocalReparameterization, tfpl.DenseVariational,
    own.DenseFlipout, own.DenseReparameterization,
}  # fmt: skip
CONVOLUTIONS = {
    tfpl.Convolution1DFlipout, tfpl.Convolution1DReparameterization, tfpl.Convolution2DFlipout,
    tfpl.Convolution2DReparameterization, tfpl.Convolution3DFlipout, tfpl.Convolution3DReparameterization,
    own.Convolution2DFlipout, own.Convolution2DReparameterization,
}  # fmt: skip
# These treat each example by itself, draw nothing in inference, and pass no mask on.
PLAIN = {
    kl.Dense, kl.Conv1D, kl.Conv2D, kl.Conv3D, kl.DepthwiseConv2D, kl.Flatten, kl.Reshape, kl.Dropout, kl.Activation,
    kl.MaxPooling1D, kl.MaxPooling2D, kl.AveragePooling2D, kl.GlobalAveragePooling2D, kl.BatchNormalization, kl.ReLU,
    kl.LeakyReLU, kl.ELU, kl.Rescaling,
}  # fmt: skip
ACTIVATIONS = [
    None, functions.linear, functions.relu, functions.elu, functions.selu, functions.gelu, functions.sigmoid,
    functions.tanh, functions.softmax, functions.softplus, functions.swish, tf.nn.relu, tf.nn.elu, tf.nn.tanh,
    tf.nn.sigmoid, tf.nn.softplus, tf.nn.gelu, tf.nn.leaky_relu, tf.tanh, tf.nn.silu,
]  # fmt: skip


def prefix_of(model: keras.Model) -> tuple[list[keras.layers.Layer], list[keras.layers.Layer]]:
    """Divide a stack, in which each layer takes the output of the one before it, at its first Bayesian layer.

    Returns:
      (before, after), without the input layer; ([], []) if the model is no stack, or has a layer that is not known.
    """
    layers = [layer for layer in model.layers if type(layer) is not kl.InputLayer]
    try:
        links = [model.input, *(layer.output for layer in layers)]
        linked = all(layer.input is link for layer, link in zip(layers, links[:-1], strict=True))
        # With one node a layer has been called once. The arguments of that call belong to the model.
        nodes = [layer.inbound_nodes[0] for layer in layers]
        plain = all(len(node.call_args) == 1 and not (set(node.call_kwargs) - {"mask"}) for node in nodes)
        if not (type(model) in (keras.Sequential, keras.Model) or type(model).__module__.startswith("tf_keras.")):
            return [], []
        if not (linked and plain and links[-1] is model.output and all(map(_known, layers))):
            return [], []
    except (AttributeError, IndexError, ValueError):  # a layer is used twice, or belongs to no graph
        return [], []
    start = next((place for place, layer in enumerate(layers) if bayesian_layers(layer)), 0)
    return layers[:start], layers[start:]


def _known(layer: keras.layers.Layer) -> bool:
    """Tell whether a layer is of a class and has settings that the tests compare with the general path."""
    if "call" in vars(layer) or layer.dynamic or getattr(layer, "activity_regularizer", None) is not None:
        return False
    if type(layer) in DENSE | CONVOLUTIONS and not drawable_layers(layer):
        return False
    activation = getattr(layer, "activation", None)
    return type(layer) in DENSE | CONVOLUTIONS | PLAIN and any(activation is function for function in ACTIVATIONS)


def stackable(layers: Sequence[keras.layers.Layer]) -> bool:
    """Tell whether `stacked` takes these layers of a stack: some are Bayesian, and all of those are dense."""
    bayesian = [layer for layer in layers if bayesian_layers(layer)]
    return bool(bayesian) and all(type(layer) in DENSE for layer in bayesian)


def stacked(layers: Sequence[keras.layers.Layer], drawn: Drawn, x: tf.Tensor) -> tf.Tensor:
    """Compute the outputs of `stackable` layers for all networks at once.

    The first product is one of x [N, D] with all kernels [S, D, H]. From there on the outputs of the networks stand one
    after the other along the batch axis, so layers that are not Bayesian need not distinguish them.

    Args:
      layers: the layers to apply, one after the other, the first of which is Bayesian.
      drawn: the Bayesian layers, each with its kernels [S, D, H] and, if any, biases [S, H].
      x: [N, ..., D], the inputs of the first layer.

    Returns:
      [S, N, K], in at least float32.
    """
    weights, networks = {id(layer): tensors for layer, tensors in drawn}, 1
    for layer in layers:
        if id(layer) not in weights:
            x = layer(x, training=False) if layer._expects_training_arg else layer(x)
            continue
        kernel, *bias = (tf.cast(tensor, layer.compute_dtype) for tensor in weights[id(layer)])
        rows = tf.reshape(tf.cast(x, kernel.dtype), [networks, -1, kernel.shape[1]])
        rows = tf.matmul(rows, kernel) + (bias[0][:, None] if bias else tf.zeros([], kernel.dtype))
        networks, shape = tf.shape(kernel)[0], x.shape[1:-1] + kernel.shape[2:]
        x = tf.reshape(rows, tf.concat([[-1], tf.shape(x)[1:-1], kernel.shape[2:]], 0))
        x = tf.ensure_shape(x, [None, *shape])
        x = x if layer.activation is None else layer.activation(x)
    x = tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
    return tf.reshape(x, tf.concat([[networks, -1], tf.shape(x)[1:]], 0))
