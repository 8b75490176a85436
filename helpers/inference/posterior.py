"""The posterior of a Keras model: which layers have one, draws of their weights, and outputs with drawn weights.

The weights of a network depend on the seed, on the number of the network and on the layer alone. So they are the same
however many networks are drawn at once. The outputs of a network are the model's own outputs, while each Bayesian layer
applies its deterministic operation with the drawn weights.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from helpers.layers.noise import fold_in, stateless_normal

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras
from tensorflow_probability import distributions as tfd

# What has a posterior


def bayesian_layers(*parts: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return the layers among and in `parts`, at any depth, whose weights have a posterior."""
    found = {id(layer): layer for part in parts for layer in (part, *part.submodules)}
    return [layer for layer in found.values() if hasattr(layer, "kernel_posterior") or _is_joint(layer)]


def is_bayesian(model: keras.Model) -> bool:
    """Tell whether a built model has a layer, at any depth, whose weights have a posterior."""
    return bool(bayesian_layers(model))


def variational_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return those of a built model's own layers whose kernel has a posterior, in the model's order."""
    return [layer for layer in model.layers if hasattr(layer, "kernel_posterior")]


def posterior_moments(model: keras.Model) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the moments of the posteriors of all kernels of `variational_layers`.

    Returns:
      {layer's name: (means, standard deviations)}, arrays of the kernel's shape.
    """
    posteriors = {layer.name: layer.kernel_posterior for layer in variational_layers(model)}
    return {name: (q.mean().numpy(), q.stddev().numpy()) for name, q in posteriors.items()}


def is_dense(layer: keras.layers.Layer) -> bool:
    """Tell whether a Bayesian layer multiplies by a kernel [D, H]. The others convolve."""
    return _is_joint(layer) or hasattr(layer, "kernel_posterior") and not hasattr(layer, "kernel_size")


def _is_joint(layer: keras.layers.Layer) -> bool:
    """Tell whether kernel and bias have one posterior together."""
    return isinstance(layer, tfp.layers.DenseVariational)


# Draws of the weights


def sampler(layer: keras.layers.Layer) -> tuple[Callable[[tf.Tensor], list[tf.Tensor]], list[tf.DType]]:
    """Prepare draws from the posterior of a Bayesian layer.

    Returns:
      (draw, types): `draw` takes a seed, int64 [2], and returns one draw of the kernel and, if the layer has one, of
      the bias. `types` are the types of these tensors.
    """
    if not _is_joint(layer):
        posteriors = [p for p in (layer.kernel_posterior, layer.bias_posterior) if p is not None]
        draws = [_sampler(posterior) for posterior in posteriors]
        return lambda seed: [draw(fold_in(seed, i)) for i, draw in enumerate(draws)], [p.dtype for p in posteriors]
    width = layer.input_spec.axes[-1]
    posterior = layer._posterior(tf.zeros([1, width]))
    draw = _sampler(posterior)

    def split(seed: tf.Tensor) -> list[tf.Tensor]:
        kernel, bias = tf.split(draw(seed), [width * layer.units, -1])
        return [tf.reshape(kernel, [width, layer.units]), bias][: 1 + layer.use_bias]

    return split, [posterior.dtype] * (1 + layer.use_bias)


def _sampler(posterior: tfd.Distribution) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function from a seed to one draw from this distribution."""
    factors = posterior.distribution if isinstance(posterior, tfd.Independent) else posterior
    if isinstance(factors, tfd.Deterministic):
        loc = tf.convert_to_tensor(factors.loc)
        return lambda seed: loc
    if isinstance(factors, tfd.Normal):
        loc, scale = tf.convert_to_tensor(factors.loc), tf.convert_to_tensor(factors.scale)
        return lambda seed: loc + scale * stateless_normal(seed, factors.batch_shape, factors.dtype)
    return lambda seed: tf.convert_to_tensor(posterior.sample(seed=tf.cast(seed, tf.int32)))


# Outputs with drawn weights

Drawn = Sequence[tuple[keras.layers.Layer, Sequence[tf.Tensor]]]


def sequential(layers: Sequence[keras.layers.Layer], drawn: Drawn, x: tf.Tensor, block: tf.Tensor) -> tf.Tensor:
    """Compute the outputs of layers of any kind, one network after the other.

    Each network computes its outputs block by block, because a block stays in the processor's cache.

    Args:
      layers: the layers or models to apply, one after the other.
      drawn: the Bayesian layers among and in `layers`, each with its kernels [S, ...] and, if any, biases [S, ...].
      x: [N, ...], the inputs of the first layer.
      block: int32 scalar, the number of examples in a block.

    Returns:
      float32 [S, N, K]; S is 1 if no layer is Bayesian.

    Raises:
      TypeError: the output is not one tensor.
    """
    count, n = tf.shape(drawn[0][1][0])[0] if drawn else 1, tf.shape(x)[0]
    blocks = -(-n // block)
    padded = tf.pad(x, [[0, blocks * block - n]] + [[0, 0]] * (len(x.shape) - 1))

    def one(network: tf.Tensor) -> tf.Tensor:
        weights = [(layer, [tensor[network] for tensor in tensors]) for layer, tensors in drawn]

        def part(place: tf.Tensor) -> tf.Tensor:
            outputs = padded[place * block : (place + 1) * block]
            with _fixed(weights):
                for layer in layers:
                    outputs = apply(layer, outputs)
            return checked(outputs)

        return tf.map_fn(part, tf.range(blocks), fn_output_signature=tf.float32, parallel_iterations=1)

    # Two networks run at a time. While one of them uses a single core, the other can use the remaining ones.
    outputs = tf.map_fn(one, tf.range(count), fn_output_signature=tf.float32, parallel_iterations=2)
    return tf.reshape(outputs, tf.concat([[count, blocks * block], tf.shape(outputs)[3:]], 0))[:, :n]


@contextmanager
def _fixed(weights: Drawn) -> Iterator[None]:
    """Replace the `call` of each layer in this context by its deterministic operation with the given weights."""
    for layer, tensors in weights:
        vars(layer)["call"] = _operation(layer, *tensors)
    try:
        yield
    finally:
        for layer, _ in weights:
            del vars(layer)["call"]


def _operation(layer: keras.layers.Layer, kernel: tf.Tensor, bias: tf.Tensor | None = None) -> Callable:
    """Return a `call` that does what the layer does with these weights, including its activation."""
    kernel = tf.cast(kernel, layer.compute_dtype)
    bias = bias if bias is None else tf.cast(bias, kernel.dtype)

    @tf.autograph.experimental.do_not_convert
    def call(inputs: tf.Tensor, *_: object, **__: object) -> tf.Tensor:
        inputs = tf.cast(inputs, kernel.dtype)
        before, after = ("NC", "") if getattr(layer, "data_format", None) == "channels_first" else ("N", "C")
        if is_dense(layer):
            # A batch of one product is faster than a plain product if the kernel has few columns.
            outputs = tf.matmul(inputs[None], kernel[None])[0]
        else:
            layout = before + "DHW"[-layer.rank :] + after
            options = {"data_format": layout, "dilations": layer.dilation_rate}
            outputs = tf.nn.convolution(inputs, kernel, layer.strides, layer.padding.upper(), **options)
        outputs = outputs if bias is None else tf.nn.bias_add(outputs, bias, f"{before}...{after}")
        return outputs if layer.activation is None else layer.activation(outputs)

    return call


def apply(layer: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    """Apply a layer or model as in inference: dropout off, batch normalisation by its moving averages."""
    takes_training = "training" in inspect.signature(layer.call).parameters
    return layer(x, training=False) if takes_training else layer(x)


def checked(outputs: object) -> tf.Tensor:
    """Return the outputs of a model as float32.

    Raises:
      TypeError: they are not one tensor.
    """
    if not tf.is_tensor(outputs):
        raise TypeError(
            f"expected a model whose output is one tensor [N, K], found {type(outputs).__name__}. "
            "Choose one of several outputs, and leave out a layer that makes a distribution."
        )
    return tf.cast(outputs, tf.float32)
