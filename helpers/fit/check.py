"""What is tried on two examples before a run begins: whether model, targets and loss belong together."""

import functools
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from helpers import data, elbo
from helpers.inference.inputs import check_training_inputs
from helpers.layers.divergence import adds_kl, layers_of, parts_of

import numpy as np
import tensorflow as tf
import tf_keras as keras

Nll = Callable[[tf.Tensor, Any], tf.Tensor]


def check(model: keras.Model, x: np.ndarray, y: np.ndarray, loss: elbo.NegativeElbo) -> list[str]:
    """Find what would give a wrong loss without an error. The model's variables are left as they are.

    Args:
      model: a built Keras model.
      x, y, loss: as `fit` takes them.

    Returns:
      Warnings of what is counted in another way than the reader may expect.

    Raises:
      ValueError: x is uint8 that is no image, the targets do not fit the outputs, the loss is not a mean over examples,
        labels name classes that the model does not have, a layer adds losses where the loss cannot read them or more
        than once, or there is nothing to train.
    """
    if not model.trainable_variables:
        raise ValueError(f"The model {model.name} has no trainable variables. Build it, or set trainable=True.")
    check_training_inputs(model, x)
    nll = getattr(loss, "nll", None)
    inputs, targets = _two_examples(model, x, y)
    with _unchanged(model):
        with _counted(model) as calls:
            outputs = model(inputs, training=True)
        layers = [layer for layer in layers_of(model) if layer._eager_losses]
        own = [layer for layer in layers if adds_kl(layer)]
        lost = [layer for layer in layers if adds_kl(layer) or layer.activity_regularizer]
        if lost:
            _check_losses_are_read(model, inputs, lost)
            model(inputs, training=True)
    for layer in own:
        if calls[id(layer)] > 1:
            raise ValueError(
                f"The layer {layer.name} is applied {calls[id(layer)]} times in a call of the model and adds its loss "
                "each time, so its KL would count several times. Let it add the loss only the first time."
            )
    if nll is elbo.categorical_nll:
        _check_classes(np.asarray(y), outputs)
    if nll is not None:
        _check_nll(nll, targets, outputs)
    return [*_own_losses(own), *_scaled_divergences(model)]


def _two_examples(model, x, y):
    """Return inputs and targets as training sees them. The targets of the two examples differ as much as possible."""
    count = model.inputs[0].shape[0] if getattr(model, "inputs", None) else None
    count, every = count or min(2, len(x)), max(1, len(y) // 1000)
    some, apart = np.asarray(y[::every]), np.zeros(1)
    if some.dtype.kind in "biuf" and some.size:
        apart = np.abs(some.astype(float) - some[0].astype(float)).reshape(len(some), -1).max(axis=1)
    rows = np.resize([0, every * int(np.nanargmax(apart)) if np.isfinite(apart).any() else 0], count)
    chosen = [np.stack([np.asarray(values[i : i + 1])[0] for i in rows]) for values in (x, y)]
    return next(iter(data.batches(*chosen, batch_size=count, seed=0, epoch=0)))


@contextmanager
def _unchanged(model: keras.Model) -> Iterator[None]:
    """Give the variables that a call changes, such as moving averages, their values back. Functions run as Python."""
    kept = [(variable, variable.numpy()) for variable in model.non_trainable_variables]
    eager = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(eager)
        for variable, value in kept:
            variable.assign(value)


@contextmanager
def _counted(model: keras.Model) -> Iterator[Counter]:
    """Count how often each layer of a kind that is not Keras' own is called, by the layer's id."""
    calls: Counter = Counter()

    def counting(layer, call):
        @functools.wraps(call)
        def counted(*args, **kwargs):
            calls[id(layer)] += 1
            return call(*args, **kwargs)

        return counted

    layers = [layer for layer in layers_of(model) if not type(layer).__module__.startswith("tf_keras.")]
    layers = [layer for layer in layers if "call" not in vars(layer)]
    for layer in layers:
        vars(layer)["call"] = counting(layer, layer.call)
    try:
        yield calls
    finally:
        for layer in layers:
            vars(layer).pop("call", None)


def _check_losses_are_read(model, inputs, layers):
    """Raise a ValueError if losses that `layers` add in a call do not arrive in a compiled step."""
    missing = []

    def step(inputs):
        model(inputs, training=True)
        graph = tf.compat.v1.get_default_graph()
        for layer in layers:
            losses = layer._eager_losses
            if not losses or any(getattr(loss, "graph", graph) is not graph for loss in losses):
                missing.append(layer.name)

    tf.config.run_functions_eagerly(False)
    try:
        tf.function(step).get_concrete_function(tf.nest.map_structure(tf.TensorSpec.from_tensor, inputs))
    finally:
        tf.config.run_functions_eagerly(True)
    if missing:
        raise ValueError(
            f"The layer {missing[0]} adds a loss inside a tf.function or a loop over time steps, from where it does "
            "not reach the loss of a training step. Remove @tf.function, because fit compiles the whole step, or take "
            "the layer out of the loop."
        )


def _check_nll(nll: Nll, targets: tf.Tensor, outputs: Any) -> None:
    """Raise a ValueError if `nll` is no mean over examples of what a target has to do with its own output."""
    name, n = getattr(nll, "__qualname__", repr(nll)), len(targets)
    shape = outputs.shape if tf.is_tensor(outputs) else getattr(outputs, "batch_shape", targets.shape)
    shapes = f"targets {elbo.shape_of(targets.shape)} and outputs {elbo.shape_of(shape)}"
    try:
        value = tf.convert_to_tensor(nll(targets, outputs))
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        if nll in (elbo.categorical_nll, elbo.gaussian_nll) and isinstance(error, ValueError):
            raise
        reason = str(getattr(error, "message", error)).rpartition("}} ")[2].strip().splitlines()[:1]
        raise ValueError(
            f"The loss {name} cannot be computed from {shapes}, types {targets.dtype.name} and "
            f"{getattr(outputs, 'dtype', tf.float32).name} ({''.join(reason)}). Give targets of another shape or "
            "type, or another nll."
        ) from error
    if value.shape.rank and value.shape.as_list() not in ([n], [n, 1]):
        raise ValueError(
            f"The loss {name} gives numbers of shape {value.shape.as_list()} for {n} examples with {shapes}, but one "
            "for each example is needed. Give targets and outputs the same shape, and sum over all axes but the first."
        )

    def at(targets, outputs):
        try:
            return float(tf.reduce_mean(tf.cast(nll(targets, outputs), tf.float64)))
        except (TypeError, ValueError, tf.errors.InvalidArgumentError):
            return math.nan

    if n > 1 and targets.shape[1:] != shape[1:] and _ignores_order(at, targets, outputs):
        fix = "targets[:, None]" if targets.shape.rank < shape.rank else "targets[:, 0]"
        raise ValueError(
            f"{shapes} do not match, so the loss {name} compares every target with the outputs of all examples. "
            f"Give {fix}."
        )
    if not tf.is_tensor(outputs):
        return
    same = tf.zeros(n, tf.int32)
    twice, once = (at(tf.gather(targets, i), tf.gather(outputs, i)) for i in (same, same[: n // 2]))
    if not value.shape.rank and n % 2 == 0 and once and math.isclose(twice, 2 * once, rel_tol=1e-4):
        raise ValueError(
            f"The loss {name} sums over the examples of a batch, but the KL is divided by their number. Take the mean "
            "(tf.reduce_mean) over the examples."
        )


def _ignores_order(at: Callable[[tf.Tensor, tf.Tensor], float], targets: tf.Tensor, outputs: tf.Tensor) -> bool:
    """Tell whether it makes no difference to a loss which target belongs to which output.

    So it is if each target is compared with each output, by broadcasting. Outputs are moved apart by several distances,
    because networks often begin with equal outputs, and because outputs may be probabilities or exponents.
    """
    numbers = tf.cast(targets, tf.float32)
    if bool(tf.reduce_all(numbers == numbers[:1])):
        return False
    if not tf.is_tensor(outputs):  # a distribution, which is taken as it is
        mean = tf.convert_to_tensor(outputs.mean())
        equal = math.isclose(at(targets, outputs), at(tf.reverse(targets, [0]), outputs), rel_tol=1e-6)
        return equal and not bool(tf.reduce_all(mean == mean[:1]))
    size = tf.size(outputs[0])
    ramp = tf.reshape(tf.linspace(1.0, 0.2, size), tf.shape(outputs[:1]))
    pairs = []
    for distance in (0.05, 1.0, float(tf.reduce_max(tf.abs(numbers)))):
        second = 0.9 * outputs[1:2] + tf.cast(distance * ramp, outputs.dtype)
        moved = tf.gather(tf.concat([outputs[:1], second], 0), tf.range(len(outputs)) % 2)
        swapped = tf.reverse(moved, [0]) if len(outputs) % 2 == 0 else tf.roll(moved, 1, 0)
        pairs.append((at(targets, moved), at(targets, swapped)))
    finite = [pair for pair in pairs if all(map(math.isfinite, pair))]
    return bool(finite) and all(math.isclose(*pair, rel_tol=1e-6) for pair in finite)


def _check_classes(y: np.ndarray, outputs: Any) -> None:
    """Raise a ValueError if integer labels are not all numbers of the model's classes."""
    classes = outputs.shape[-1] if tf.is_tensor(outputs) and outputs.shape.rank > 1 else 1
    if (
        classes > 1
        and y.dtype.kind in "iu"
        and y.shape[1:] != outputs.shape[1:]
        and not 0 <= y.min() <= y.max() < classes
    ):
        raise ValueError(
            f"The labels go from {y.min()} to {y.max()}, but the model has outputs for the classes 0 to {classes - 1}. "
            f"Number the classes from 0, or give the last layer {int(y.max()) + 1} units."
        )


def _own_losses(layers: list[keras.layers.Layer]) -> Iterator[str]:
    """Say how losses that layers of other kinds add are counted."""
    for layer in layers:
        yield (
            f"The layer {layer.name} adds a loss in its call, which is taken as a KL and multiplied by kl_weight / N. "
            "If it is no KL, give it as an activity regulariser, which is added as it is."
        )


def _scaled_divergences(model: keras.Model) -> Iterator[str]:
    """Warn of divergences that are far from the KL; estimates from draws may differ a little."""
    for layer in layers_of(model):
        for part in parts_of(layer):
            found, kl = float(part.own()), float(part.kl())
            if abs(kl) > 1e-3 and not 0.51 < found / kl < 1.96:
                yield (
                    f"The {part.name} divergence of the layer {layer.name} is {found:.4g}, but KL(q || p) is {kl:.4g}. "
                    "Training uses KL(q || p), because the loss itself divides it by N and multiplies it by kl_weight."
                )


def warn(messages: list[str]) -> None:
    """Give the warnings to the caller of `fit`."""
    for message in messages:
        warnings.warn(message, stacklevel=3)
