"""Start a BNN, and centre its prior, on the weights of its trained deterministic twin."""

from helpers import keras2  # noqa: F401

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


def start_from_twin(model, twin, prior_scale=1.0, delta=0.1):
    """Give the posteriors and priors of `model` the weights of `twin` as their means.

    Krishnan et al. (2020), MOPED, section 3: posterior N(w, (delta |w|)^2) and prior N(w, prior_scale^2) for each
    weight w of the trained twin. The prior has then seen the data: what the ELBO bounds is no evidence any
    more, and a small `prior_scale` is as confident of the twin as its user is.

    Args:
      model: a Keras model with Bayesian layers; changed in place.
      twin: a Keras model with layers of the same names and shapes.
      prior_scale: standard deviation of the priors, > 0.
      delta: standard deviation of the posteriors at the start, as a share of |w|, > 0.

    Raises:
      ValueError: a scale that is not positive; no layer of that name in the twin, or one of another shape.
    """
    if min(prior_scale, delta) <= 0:
        raise ValueError(f"prior_scale and delta must be positive, and are {prior_scale} and {delta}")
    for layer in (layer for layer in model.layers if layer.weights):
        kernel, bias = (tf.convert_to_tensor(weight) for weight in twin.get_layer(layer.name).weights)
        if not hasattr(layer, "kernel_posterior"):
            layer.set_weights([kernel, bias])
            continue
        posterior = layer.kernel_posterior
        if posterior.event_shape != kernel.shape:
            raise ValueError(f"{layer.name} has weights {posterior.event_shape}, and its twin's are {kernel.shape}")
        normal = posterior.distribution
        normal.loc.assign(kernel)
        # Softplus' inverse; a weight of exactly zero would have a posterior without width.
        scales = tf.maximum(delta * tf.abs(kernel), 1e-6)
        normal.scale.pretransformed_input.assign(tfp.math.softplus_inverse(scales))
        layer.bias_posterior.distribution.loc.assign(bias)
        prior = tfd.Normal(kernel, tf.constant(prior_scale, kernel.dtype))
        layer.kernel_prior = tfd.Independent(prior, posterior.reinterpreted_batch_ndims)
