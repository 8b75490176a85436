"""The KL divergence of a model, in which each posterior counts once, and the losses of its layers that are no KL.

Keras adds a loss each time that it calls a layer, and loses the losses of a call that is a `tf.function` or a loop.
Therefore the KL is not the sum of `model.losses`. The rules are these:

* A layer with `kernel_posterior` or `bias_posterior`, and `tfp.layers.DenseVariational`, contribute KL(q || p) of their
  posteriors and priors, once for each posterior. A part without a prior or without a divergence contributes nothing.
  Otherwise the divergence that the layer was given is not used, because tutorials divide it by the number of examples,
  which the loss does as well. The same holds for `kl_weight`.
* What another layer with weights of its own adds by `add_loss` in its call is taken as a KL, because variational layers
  are written so. A layer with an activity regulariser is none.
* Everything else is a regulariser: those of weights and of activities, losses that are functions without arguments,
  and what a layer without weights adds. It has the scale that it has in Keras.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from helpers.layers.bayesian import factors, gaussian_kl
from helpers.layers.parts import modules_of

import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras
from tensorflow_probability import distributions as tfd


class Part(NamedTuple):
    """The posterior of a layer's kernel, of its bias or of both."""

    name: str
    key: object  # the same for two parts that share their variables
    posterior: tfd.Distribution
    prior: tfd.Distribution
    draw: Callable  # from the posterior to a draw
    divergence: Callable  # (posterior, prior, draw) -> what the layer itself adds to its losses

    def kl(self) -> tf.Tensor:
        """Compute KL(posterior || prior), a scalar in nats."""
        q = self.posterior
        return gaussian_kl(q, self.prior, lambda: tf.cast(self.draw(q), q.dtype))

    def own(self) -> tf.Tensor:
        """Compute what the layer itself takes as its divergence, a scalar."""
        q = self.posterior
        return tf.reduce_sum(self.divergence(q, self.prior, tf.cast(self.draw(q), q.dtype)))


def layers_of(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return the model and its layers at any depth, each once."""
    return [part for part in modules_of(model) if isinstance(part, keras.layers.Layer)]


def parts_of(layer: keras.layers.Layer) -> Iterator[Part]:
    """Yield the parts of a built layer that have a posterior, a prior and a divergence."""
    if isinstance(layer, tfp.layers.DenseVariational):
        if layer.built and not reads_inputs(layer):
            like = tf.zeros([1, layer.input_spec.axes[-1]], layer.dtype)
            q, p = layer._posterior(like), layer._prior(like)
            key, draw = id(layer._posterior), tf.convert_to_tensor
            yield Part("kl", key, q, p, draw, lambda q, p, _: layer._kl_divergence_fn(q, p))
        return
    for name in ("kernel", "bias"):
        whats = ("posterior", "prior", "posterior_tensor_fn", "divergence_fn")
        q, p, draw, divergence = (getattr(layer, f"{name}_{what}", None) for what in whats)
        if q is not None and p is not None and divergence is not None:
            yield Part(name, _key(q), q, p, draw or tfd.Distribution.sample, divergence)


def _key(posterior: tfd.Distribution) -> object:
    """Return what two posteriors have in common if they are one: their variables, their constants and their shape."""
    variables = frozenset(id(variable) for variable in posterior.variables)
    constants = [value for value in factors(posterior).parameters.values() if tf.is_tensor(value)]
    numbers = frozenset(id(value) for value in constants if not isinstance(value, tf.Variable))
    return (variables, numbers, str(posterior.event_shape)) if variables else id(posterior)


def reads_inputs(layer: tfp.layers.DenseVariational) -> bool:
    """Tell whether the posterior or the prior of a built layer depends on the layer's inputs, as a hypernetwork's does.

    Such a layer has no posterior of its own. It is called as it is, and its KL is what it adds in its call.
    """
    width = layer.input_spec.axes[-1]
    with tf.init_scope():
        for make in (layer._posterior, layer._prior):
            try:
                one, two = (
                    tf.convert_to_tensor(make(like).sample(seed=(1, 2)))
                    for like in (tf.zeros([1, width], layer.dtype), tf.ones([1, width], layer.dtype))
                )
            except (NotImplementedError, TypeError, AttributeError):
                continue  # it cannot be sampled so, or is no distribution
            if one.shape != two.shape or bool(tf.reduce_any(one != two)):
                return True
    return False


def kl_divergence(model: keras.Model) -> tf.Tensor:
    """Return KL(q || p) summed over the distinct posteriors of `model`, a scalar in nats; 0 for a deterministic model.

    It is that of `helpers.layers`' and TFP's layers, whether and however the model was called. The KL of variational
    layers of another kind is what they added in the last call of the model.
    """
    layers = layers_of(model)
    found = [part for layer in layers for part in parts_of(layer)]
    kls = [part.kl() for part in {part.key: part for part in reversed(found)}.values()][::-1]
    return total(kls + [loss for layer in layers if adds_kl(layer) for loss in layer._eager_losses])


def regularisers(model: keras.Model) -> list[tf.Tensor]:
    """Return the losses of `model` that are no KL, as Keras scales them. Those of a call are of the last one."""
    found = []
    for layer in layers_of(model):
        found += [loss for loss in (function() for function in layer._callable_losses) if loss is not None]
        if layer._eager_losses and not adds_kl(layer):
            # In each call a Bayesian layer first adds its divergences, and then Keras adds a loss of the activity.
            divergences = len(list(parts_of(layer)))
            if layer.activity_regularizer or not divergences:
                found += layer._eager_losses[divergences :: divergences + 1]
    return found


def is_regularised(model: keras.Model) -> bool:
    """Tell whether a model that was called has losses that are no KL."""
    return any(layer.activity_regularizer for layer in layers_of(model)) or bool(regularisers(model))


def adds_kl(layer: keras.layers.Layer) -> bool:
    """Tell whether the losses that a layer added in its last call are a KL, by the rules of this module."""
    if not layer._eager_losses or layer.activity_regularizer:
        return False
    return bool(layer.weights) and not any(True for _ in parts_of(layer))


def total(losses: list[tf.Tensor]) -> tf.Tensor:
    """Return the sum of scalars, float64 if one of them is, otherwise float32."""
    dtype = tf.float64 if any(loss.dtype == tf.float64 for loss in losses) else tf.float32
    return tf.add_n([tf.cast(loss, dtype) for loss in losses]) if losses else tf.constant(0.0)
