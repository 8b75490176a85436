"""The loss: the negative ELBO with its negative log-likelihood (NLL), its KL divergence and the weight of the KL."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from helpers import keras2  # noqa: F401

import tensorflow as tf
import tf_keras as keras


def categorical_nll(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Compute the mean negative log-likelihood of classes.

    Args:
      labels: integers [B].
      logits: float [B, C].

    Returns:
      A scalar, in nats, averaged over B.
    """
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))


def gaussian_nll(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Compute the mean negative log-likelihood of real targets under a Gaussian whose noise the network predicts.

    Kendall and Gal (2017), equation 5, with the constant: (log 2 pi + s + (y - m)^2 / exp(s)) / 2.

    Args:
      targets: float [B, D].
      outputs: float [B, 2 D], the means m and then the log variances s.

    Returns:
      A scalar, in nats, summed over D and averaged over B.
    """
    mean, log_variance = tf.split(outputs, 2, axis=-1)
    square = tf.math.squared_difference(targets, mean) * tf.exp(-log_variance)
    return tf.reduce_mean(0.5 * tf.reduce_sum(math.log(2 * math.pi) + log_variance + square, axis=-1))


def kl_divergence(model: keras.Model) -> tf.Tensor:
    """Return KL(q || p) summed over all weights of `model`, a scalar in nats; 0 for a deterministic model.

    Keras layers renew their losses at each call, so call the model first.
    """
    return tf.add_n(model.losses) if model.losses else tf.constant(0.0)


@dataclass(frozen=True)
class LinearWarmup:
    """A weight of the KL that rises linearly from 0 to `final` over the first `epochs` epochs.

    Bowman et al. (2016), section 3.1 (KL annealing). If `final` is below 1, the loss is no bound on the evidence, and
    its posterior is narrower than the one that the prior asks for.
    """

    epochs: float
    final: float

    def __call__(self, epoch: tf.Tensor | float) -> tf.Tensor:
        """Return the weight, a float32 scalar, after `epoch` epochs. The fraction counts the present epoch."""
        if self.epochs <= 0:
            return tf.constant(self.final, tf.float32)
        return self.final * tf.minimum(1.0, tf.cast(epoch, tf.float32) / self.epochs)


def constant(weight: float) -> LinearWarmup:
    """Return a schedule that gives the KL the same weight at all times. A weight of 1 gives the ELBO."""
    return LinearWarmup(0.0, weight)


def warmup(epochs: float, final: float = 1.0) -> LinearWarmup:
    """Return a schedule that raises the weight of the KL linearly from 0 to `final` over the first `epochs` epochs."""
    return LinearWarmup(epochs, final)


class Loss(NamedTuple):
    """The loss of a batch, its parts (scalars in nats) and the model's outputs."""

    loss: tf.Tensor
    nll: tf.Tensor
    kl: tf.Tensor
    outputs: tf.Tensor


@dataclass(frozen=True)
class NegativeElbo:
    """The negative ELBO of one batch, per training example: mean NLL over the batch + kl_weight * KL / N.

    This is equation 8 of Blundell et al. (2015), divided by the number of examples N in the whole training set. It
    estimates -ELBO / N without bias, whatever the batch size is. Averaging it over ranks counts the KL once, because N
    is that of the whole training set.

    Args:
      nll: function of (y, outputs) to a scalar.
      kl_weight: function of the epochs trained so far to the weight of the KL, such as `constant` and `warmup` return.
    """

    nll: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = categorical_nll
    kl_weight: Callable[[tf.Tensor | float], tf.Tensor] = constant(1.0)

    def __call__(
        self, model: keras.Model, x: tf.Tensor, y: tf.Tensor, num_examples: int, epoch: tf.Tensor | float = 0.0
    ) -> Loss:
        """Compute the loss of the model's training call on a batch.

        Args:
          model: a Keras model.
          x: the model's input [B, ...].
          y: what `nll` takes as its first argument.
          num_examples: N.
          epoch: epochs trained so far, with the fraction of the present one.
        """
        outputs = model(x, training=True)
        nll, kl = self.nll(y, outputs), kl_divergence(model)
        return Loss(nll + self.kl_weight(epoch) * kl / num_examples, nll, kl, outputs)

    def settings(self) -> dict:
        """Return what a resumed run must have in common with the run that it resumes.

        Raises:
          ValueError: a run that is kept cannot name its schedule, because other schedules would have the same name.
        """
        if isinstance(self.kl_weight, LinearWarmup):
            return {"kl_final": self.kl_weight.final, "kl_warmup_epochs": self.kl_weight.epochs}
        name = getattr(self.kl_weight, "__qualname__", repr(self.kl_weight))
        if "<" in name:  # a function made in another one, a lambda, or an object that shows only its address
            raise ValueError(
                f"the run cannot be kept in a folder, because its KL schedule {name} does not show its parameters. "
                "Make it a frozen dataclass like elbo.LinearWarmup, or a function of a module."
            )
        return {"kl_weight": name}

    def report(self, epoch: float) -> dict:
        """Return what a row of the history says of the loss after `epoch` epochs."""
        return {"kl_weight": float(self.kl_weight(epoch))}
