"""MOPED: start a BNN, and centre its prior, on the weights of its trained deterministic twin."""

from helpers import keras2  # noqa: F401

import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras
from tensorflow_probability import distributions as tfd


def start_from_twin(model: keras.Model, twin: keras.Model, prior_scale: float = 1.0, delta: float = 0.1) -> None:
    """Give the posteriors and priors of a model the weights of its twin as their means.

    For each weight w of the trained twin the posterior starts from N(w, (delta |w|)^2), and the prior is
    N(w, prior_scale^2) (Krishnan, Subedar and Tickoo 2020, section 3). This prior depends on the data, so the ELBO no
    longer bounds the evidence. The smaller `prior_scale` is, the more the model trusts its twin.

    Args:
      model: a Keras model with Bayesian layers, which is changed in place.
      twin: a Keras model with layers of the same names and shapes.
      prior_scale: standard deviation of the priors, > 0.
      delta: standard deviation of the posteriors at the start, relative to |w|, > 0.

    Raises:
      ValueError: a scale is not positive, or the twin has no layer of a name, or one of other weights.
    """
    if min(prior_scale, delta) <= 0:
        raise ValueError(f"prior_scale and delta must be positive, and are {prior_scale} and {delta}")
    for layer in (layer for layer in model.layers if layer.weights):
        weights = twin.get_layer(layer.name).get_weights()
        if not hasattr(layer, "kernel_posterior"):
            layer.set_weights(weights)
            continue
        if len(weights) != 1 + (layer.bias_posterior is not None):
            raise ValueError(f"{layer.name} has a bias and its twin has none, or the other way round")
        kernel = tf.convert_to_tensor(weights[0])
        posterior = layer.kernel_posterior
        if posterior.event_shape != kernel.shape:
            raise ValueError(f"{layer.name} has weights {posterior.event_shape}, and its twin's are {kernel.shape}")
        normal = posterior.distribution
        normal.loc.assign(kernel)
        # The posterior of a weight that is exactly zero would otherwise have no width.
        scales = tf.maximum(delta * tf.abs(kernel), 1e-6)
        normal.scale.pretransformed_input.assign(tfp.math.softplus_inverse(scales))
        if layer.bias_posterior is not None:
            layer.bias_posterior.distribution.loc.assign(weights[1])
        prior = tfd.Normal(kernel, tf.constant(prior_scale, kernel.dtype))
        layer.kernel_prior = tfd.Independent(prior, posterior.reinterpreted_batch_ndims)
