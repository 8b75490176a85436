"""The loss, in one place: negative log-likelihood, KL, its weight."""

import math

from helpers import keras2  # noqa: F401

import tensorflow as tf


def categorical_nll(labels, logits):
    """Mean negative log-likelihood of integer labels [B] under logits [B, C]; a scalar, in nats."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))


def gaussian_nll(targets, outputs):
    """Mean negative log-likelihood of real targets under a Gaussian whose noise the network gives.

    Kendall and Gal (2017), equation 5, with the constant kept: (log 2 pi + s + (y - m)^2 / exp(s)) / 2.

    Args:
      targets: float [B, D].
      outputs: float [B, 2 D]: means m, then log variances s.

    Returns:
      A scalar, in nats: summed over D, averaged over B.
    """
    mean, log_variance = tf.split(outputs, 2, axis=-1)
    square = tf.math.squared_difference(targets, mean) * tf.exp(-log_variance)
    return tf.reduce_mean(0.5 * tf.reduce_sum(math.log(2 * math.pi) + log_variance + square, axis=-1))


def kl_divergence(model):
    """KL(q || p) summed over all weights of `model`, in nats; 0 for a deterministic model.

    Keras layers renew their losses at each call: call the model first.
    """
    return tf.add_n(model.losses) if model.losses else tf.constant(0.0)


def kl_weight(epoch, warmup_epochs=0.0, final=1.0):
    """The weight of the KL: rises linearly from 0 to `final` over the first `warmup_epochs` epochs.

    Bowman et al. (2016), section 3.1 (KL annealing). With `final` below 1 the loss is no longer a bound
    on the evidence: the posterior it leads to is narrower than the one that the prior asks for.

    Args:
      epoch: epochs trained so far, with the fraction of the present one; float or scalar tensor.

    Returns:
      Scalar float32 tensor in [0, final].
    """
    if warmup_epochs <= 0:
        return tf.constant(final, tf.float32)
    return final * tf.minimum(1.0, tf.cast(epoch, tf.float32) / warmup_epochs)


def negative_elbo(model, x, y, num_examples, weight=1.0, nll=categorical_nll):
    """The loss of one batch, per training example.

    Blundell et al. (2015), equation 8, divided by the number of examples N of the whole training set:
    mean NLL over the batch + weight * KL / N. It estimates -ELBO / N without bias whatever the batch size,
    and, N being that of the whole set, averaging it over ranks counts the KL once.

    Args:
      model: a Keras model; x: its input [B, ...]; y: what `nll` takes as its first argument.
      num_examples: N.
      weight: float or scalar tensor (see `kl_weight`).
      nll: function of (y, outputs) to a scalar.

    Returns:
      (loss, nll, kl, outputs): three scalars in nats, and the model's outputs.
    """
    outputs = model(x, training=True)
    likelihood = nll(y, outputs)
    kl = kl_divergence(model)
    return likelihood + weight * kl / num_examples, likelihood, kl, outputs
