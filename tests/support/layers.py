"""Bayesian layers with wide posteriors, their inputs, and the exact moments of their outputs."""

from collections.abc import Callable

from helpers.layers import (
    Convolution2DFlipout,
    Convolution2DReparameterization,
    DenseFlipout,
    DenseReparameterization,
)

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras

ALL = [DenseReparameterization, DenseFlipout, Convolution2DReparameterization, Convolution2DFlipout]
# Each is (channels, kernel size, width, padding, strides). Flipout's convolution chooses its way by the sizes.
WRITTEN_OUT = [(1, 5, 12, "same", 1), (1, 5, 27, "valid", 2), (2, 4, 24, "same", 2)]
GROUPED = [(4, 3, 12, "same", 1), (8, 3, 25, "valid", 2), (3, 5, 16, "valid", (1, 1)), (8, (3, 2), 25, "same", (2, 1))]
TWO_PRODUCTS = [(1, 5, 6, "same", 1), (4, 3, 9, "valid", 2)]


def posterior(sd: float) -> Callable:
    """Return a `kernel_posterior_fn` of random means and standard deviations about `sd`, the same at each call."""

    def make(dtype, shape, name, trainable, add_variable):
        random = np.random.default_rng(np.prod(shape))
        loc, x = random.normal(size=shape), np.log(np.expm1(sd * random.uniform(0.5, 2.0, shape)))
        fn = tfp.layers.default_mean_field_normal_fn(
            loc_initializer=keras.initializers.Constant(loc),
            untransformed_scale_initializer=keras.initializers.Constant(x),
        )
        return fn(dtype, shape, name, trainable, add_variable)

    return make


def dense_layer(cls: type, **more: object) -> tuple[keras.layers.Layer, np.ndarray]:
    """Return a dense layer of this class and inputs [3, 7] for it."""
    x = np.random.default_rng(1).normal(size=(3, 7)).astype(np.float32)
    return cls(4, kernel_posterior_fn=posterior(0.3), bias_posterior_fn=None, **more), x


def conv_layer(cls: type, case: tuple, **more: object) -> tuple[keras.layers.Layer, np.ndarray]:
    """Return a convolution of this class and three images for it, of the sizes in `case`."""
    channels, kernel, width, padding, strides = case
    x = np.random.default_rng(1).normal(size=(3, width, width, channels)).astype(np.float32)
    more = {"kernel_posterior_fn": posterior(0.3), "bias_posterior_fn": None, **more}
    return cls(3, kernel, padding=padding, strides=strides, **more), x


def layer_for(cls: type, case: tuple | None, **more: object) -> tuple[keras.layers.Layer, np.ndarray]:
    """Return `dense_layer` if there is no case, else `conv_layer`."""
    return dense_layer(cls, **more) if case is None else conv_layer(cls, case, **more)


def sample(layer: keras.layers.Layer, x: np.ndarray, draws: int) -> np.ndarray:
    """Return `draws` outputs of the layer, as [draws, B, places, units]."""
    layer(x)

    @tf.function
    def run():
        return tf.map_fn(lambda _: layer(x), tf.range(draws), fn_output_signature=tf.float32)

    outputs = run().numpy()
    return outputs.reshape(draws, len(x), -1, outputs.shape[-1])


def moments(layer: keras.layers.Layer, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact moments of the outputs if all inputs x [B, places, K] meet the weights [K, O] of one draw.

    Returns:
      mean [B, places, O] and covariance [B, places, B, places, O] of outputs of the same unit.
    """
    q = layer.kernel_posterior
    mean, sd = q.mean().numpy(), q.stddev().numpy()
    if mean.ndim == 4:
        height, width = mean.shape[:2]
        strides = [1, *layer.strides, 1]
        x = tf.image.extract_patches(x, [1, height, width, 1], strides, [1] * 4, layer.padding.upper()).numpy()
        x, mean, sd = x.reshape(len(x), -1, x.shape[-1]), mean.reshape(-1, mean.shape[-1]), sd.reshape(-1, sd.shape[-1])
    else:
        x = x[:, None]
    return x @ mean, np.einsum("apk,bqk,ko->apbqo", x, x, sd**2)


def worst(samples: np.ndarray, expected: np.ndarray | float) -> float:
    """Return the largest deviation of the mean over the first axis from `expected`, in standard errors."""
    error = samples.std(axis=0) / np.sqrt(len(samples))
    return np.max(np.abs(samples.mean(axis=0) - expected) / error)


def deviations(layer: keras.layers.Layer, x: np.ndarray, draws: int = 2500) -> dict[str, float]:
    """Return how far the moments of the outputs are from the exact ones, in standard errors.

    Returns:
      "mean"; "within" and "units" for the covariance within an example and between units; "shared" and "independent"
      for the covariance between examples, if these share a draw and if they do not.
    """
    outputs, (mean, covariance) = sample(layer, x, draws), moments(layer, x)
    centred = outputs - mean
    # All pairs of places would be many, and a few are enough.
    places = np.linspace(0, mean.shape[1] - 1, 4).astype(int) if mean.shape[1] > 1 else [0]
    centred, covariance = centred[:, :, places], covariance[:, places][:, :, :, places]
    products = np.einsum("tapo,tbqo->tapbqo", centred, centred)
    same = np.arange(len(x))
    return {
        "mean": worst(outputs, mean),
        "within": worst(products[:, same, :, same].swapaxes(0, 1), covariance[same, :, same]),
        "units": worst(centred[..., 0] * centred[..., 1], 0.0),
        "shared": worst(products[:, 0, :, 1], covariance[0, :, 1]),
        "independent": worst(products[:, 0, :, 1], 0.0),
    }
