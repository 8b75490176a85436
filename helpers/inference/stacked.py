"""The fast path: all networks at once, for a plain stack of layers whose Bayesian ones are dense."""

from collections.abc import Sequence

from helpers.inference.posterior import Drawn, apply, bayesian_layers, checked, is_dense

import tensorflow as tf
import tf_keras as keras


def stack_of(model: keras.Model) -> list[keras.layers.Layer] | None:
    """Return the layers of a model in which each layer takes the output of the one before it.

    Returns:
      The layers in their order, without the input layer; None for any other model.
    """
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    try:
        links = [model.input, *(layer.output for layer in layers)]
        linked = all(layer.input is link for layer, link in zip(layers, links[:-1], strict=True))
        from_keras = type(model).__module__.startswith("tf_keras.")  # so it has no `call` of its own
        return layers if linked and from_keras and links[-1] is model.output else None
    except AttributeError:  # a layer is used twice, or belongs to no graph
        return None


def stackable(layers: Sequence[keras.layers.Layer]) -> bool:
    """Tell whether `stacked` takes these layers of a stack: some are Bayesian, and all of those are dense."""
    bayesian = [layer for layer in layers if bayesian_layers(layer)]
    return bool(bayesian) and all(is_dense(layer) for layer in bayesian)


def stacked(layers: Sequence[keras.layers.Layer], drawn: Drawn, x: tf.Tensor) -> tf.Tensor:
    """Compute the outputs of `stackable` layers for all networks at once.

    The first product is one of x [N, D] with all kernels [S, D, H]. From there on the outputs of the networks stand one
    after the other along the batch axis, so layers that are not Bayesian need not distinguish them.

    Args:
      layers: the layers to apply, one after the other, the first of which is Bayesian.
      drawn: the Bayesian layers, each with its kernels [S, D, H] and, if any, biases [S, H].
      x: [N, ..., D], the inputs of the first layer.

    Returns:
      float32 [S, N, K].

    Raises:
      TypeError: the output is not one tensor.
    """
    weights, networks = {id(layer): tensors for layer, tensors in drawn}, 1
    for layer in layers:
        if id(layer) not in weights:
            x = apply(layer, x)
            continue
        kernel, *bias = (tf.cast(tensor, layer.compute_dtype) for tensor in weights[id(layer)])
        rows = tf.reshape(tf.cast(x, kernel.dtype), [networks, -1, kernel.shape[1]])
        rows = tf.matmul(rows, kernel) + (bias[0][:, None] if bias else 0.0)
        networks, shape = tf.shape(kernel)[0], x.shape[1:-1] + kernel.shape[2:]
        x = tf.reshape(rows, tf.concat([[-1], tf.shape(x)[1:-1], kernel.shape[2:]], 0))
        x = tf.ensure_shape(x, [None, *shape])
        x = x if layer.activation is None else layer.activation(x)
    return tf.reshape(checked(x), tf.concat([[networks, -1], tf.shape(x)[1:]], 0))
