"""The loss: the negative ELBO with its negative log-likelihood (NLL), its KL divergence and the weight of the KL."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from helpers import keras2  # noqa: F401, I001  (before TensorFlow)
from helpers.layers.divergence import kl_divergence, regularisers, total

import tensorflow as tf
import tf_keras as keras


def categorical_nll(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Compute the mean negative log-likelihood of classes.

    Args:
      labels: integers of any type, [B] or [B, 1]; or one-hot or probabilities of any type, [B, C].
      logits: float [B, C]. There may be more axes between B and C, which labels then have as well.

    Returns:
      A scalar, in nats, averaged over B.

    Raises:
      ValueError: labels and logits do not fit together.
    """
    labels, logits = tf.convert_to_tensor(labels), tf.convert_to_tensor(logits)
    logits = tf.cast(logits, tf.float32) if logits.dtype.size < 4 else logits
    found = (
        f"labels {shape_of(labels.shape)} of type {labels.dtype.name} do not fit the outputs {shape_of(logits.shape)}"
    )
    if logits.shape.rank < 2 or logits.shape[-1] == 1 or labels.dtype == tf.string:
        raise ValueError(
            f"{found}, because categorical_nll needs one output for each class and numbers as labels. "
            "Give the last layer as many units as there are classes, or give another nll."
        )
    if labels.shape.rank == logits.shape.rank and labels.shape[-1] == logits.shape[-1]:
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(tf.cast(labels, logits.dtype), logits))
    if labels.shape.rank == logits.shape.rank and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if labels.shape.rank != logits.shape.rank - 1 or labels.dtype.is_floating or labels.dtype.is_complex:
        raise ValueError(
            f"{found}. Give integer labels {shape_of(logits.shape[:-1])}, one-hot labels {shape_of(logits.shape)}, "
            "or for real targets another nll, such as gaussian_nll."
        )
    labels = tf.cast(labels, tf.int64)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))


def gaussian_nll(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Compute the mean negative log-likelihood of real targets under a Gaussian whose noise the network predicts.

    Kendall and Gal (2017), equation 5, with the constant: (log 2 pi + s + (y - m)^2 / exp(s)) / 2.

    Args:
      targets: numbers of any type, [B, D].
      outputs: float [B, 2 D], the means m and then the log variances s.

    Returns:
      A scalar, in nats, summed over D and averaged over B.

    Raises:
      ValueError: the shapes do not fit together. Targets [B] would be compared with the means of all examples.
    """
    outputs = tf.convert_to_tensor(outputs)
    outputs = tf.cast(outputs, tf.float32) if outputs.dtype.size < 4 else outputs
    targets = tf.cast(tf.convert_to_tensor(targets), outputs.dtype)
    if targets.shape.rank != outputs.shape.rank or 2 * (targets.shape[-1] or 0) != outputs.shape[-1]:
        flat = targets.shape.rank == 1 and outputs.shape[1:] == [2]
        raise ValueError(
            f"targets {shape_of(targets.shape)} do not fit the outputs {shape_of(outputs.shape)}, because gaussian_nll "
            "needs targets [N, D] and outputs [N, 2 D], the means and then the log variances. "
            + ("Give targets[:, None]." if flat else "Give the last layer two units for each column of the targets.")
        )
    mean, log_variance = tf.split(outputs, 2, axis=-1)
    square = tf.math.squared_difference(targets, mean) * tf.exp(-log_variance)
    return tf.reduce_mean(0.5 * tf.reduce_sum(math.log(2 * math.pi) + log_variance + square, axis=-1))


def shape_of(shape: tf.TensorShape) -> str:
    """Return the shape of a batch as messages name it, such as [N, 10]."""
    return f"[{', '.join(['N', *map(str, shape[1:])])}]"


def accuracy(labels: tf.Tensor, outputs: Any) -> tf.Tensor:
    """Compute which part of a batch's labels has the largest output.

    Args:
      labels: [B, ...] or [B, ..., 1] integers, or [B, ..., C] one-hot of any type.
      outputs: [B, ..., C].

    Returns:
      A float32 scalar. It is NaN if the labels or outputs are not of these kinds, such as real targets.
    """
    if not tf.is_tensor(outputs) or None in (outputs.shape.rank, labels.shape.rank) or outputs.shape.rank < 2:
        return tf.constant(math.nan)
    classes, rank = outputs.shape[-1], outputs.shape.rank
    if classes in (None, 1) or not (labels.dtype.is_integer or labels.dtype.is_floating or labels.dtype.is_bool):
        return tf.constant(math.nan)
    if labels.shape.rank == rank and labels.shape[-1] == classes:
        numbers = tf.cast(labels, tf.float32)
        valid = tf.reduce_all(tf.reduce_sum(numbers, -1) == 1.0) & tf.reduce_all(tf.reduce_max(numbers, -1) == 1.0)
        labels = tf.argmax(numbers, -1)
    elif labels.dtype.is_floating:
        return tf.constant(math.nan)
    else:
        labels = tf.cast(labels, tf.int64)
        labels = labels[..., 0] if labels.shape.rank == rank and labels.shape[-1] == 1 else labels
        if labels.shape.rank != rank - 1:
            return tf.constant(math.nan)
        valid = tf.reduce_all((labels >= 0) & (labels < classes))
    right = tf.reduce_mean(tf.cast(tf.argmax(outputs, -1) == labels, tf.float32))
    return tf.where(valid, right, math.nan)


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
    """The loss of a batch, its parts (scalars in nats), the model's outputs, and the part that regularisers add."""

    loss: tf.Tensor
    nll: tf.Tensor
    kl: tf.Tensor
    outputs: tf.Tensor
    regulariser: tf.Tensor


@dataclass(frozen=True)
class NegativeElbo:
    """The negative ELBO of one batch, per training example: mean NLL over the batch + kl_weight * KL / N.

    This is equation 8 of Blundell et al. (2015), divided by the number of examples N in the whole training set. It
    estimates -ELBO / N without bias, whatever the batch size is. Averaging it over ranks counts the KL once, because N
    is that of the whole training set. Regularisers of a model's layers are added to it as Keras adds them.

    Args:
      nll: function of (y, outputs) to a scalar, or to one number for each example.
      kl_weight: function of the epochs trained so far to the weight of the KL, such as `constant` and `warmup` return.
    """

    nll: Callable[[tf.Tensor, Any], tf.Tensor] = categorical_nll
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
        nll, kl, regulariser = tf.reduce_mean(self.nll(y, outputs)), kl_divergence(model), total(regularisers(model))
        weighted = tf.cast(self.kl_weight(epoch), kl.dtype) * kl / num_examples
        return Loss(total([nll, weighted, regulariser]), nll, kl, outputs, regulariser)

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
