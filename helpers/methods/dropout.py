"""MC dropout: dropout layers that stay on at prediction give draws of networks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from helpers.inference.posterior import parts_of
from helpers.layers.noise import fold_in
from helpers.methods.weights import network_seed

import numpy as np
import tensorflow as tf
import tf_keras as keras

kl = keras.layers
LAYERS = (kl.Dropout, kl.AlphaDropout, kl.GaussianDropout)  # SpatialDropout1D, 2D and 3D extend the first


class MCDropout:
    """The posterior of a Keras model that was trained with dropout (Gal and Ghahramani 2016, arXiv:1506.02142).

    A network is the model with one mask for each dropout layer (section 4, "Obtaining Model Uncertainty"). All examples
    share this mask, so a network is one draw of all weights. Drawing a mask for each example, as many programs do,
    gives the same distribution for a single example, but then two inputs are not seen by one network. A layer that is
    called twice has the same mask in both calls if the shapes are equal.

    In the context the dropout layers act as in training, with their own rates and noise shapes. All other layers act
    as in prediction, so batch normalisation uses its moving averages. Noise that a reader's own layer makes with
    training=True is no dropout layer, and stays off. The spread does not shrink as the number of training examples
    grows, because the rate is not learned.

    Args:
      model: a built Keras model with layers `Dropout`, `SpatialDropout1D`, `SpatialDropout2D`, `SpatialDropout3D`,
        `AlphaDropout` or `GaussianDropout`, at any depth.

    Raises:
      ValueError: the model has no such layer, all their rates are 0, a recurrent or attention layer has a rate, or a
        dropout layer is in TimeDistributed.
    """

    members = None

    def __init__(self, model: keras.Model):
        parts = parts_of(model)
        inner = [p.name for p in parts if any(_is_rate(vars(p).get(n)) for n in ("dropout", "recurrent_dropout"))]
        if inner:
            raise ValueError(
                f"the layers {inner} drop inside of their own call, which cannot be fixed to one mask. "
                "Set their dropout to 0, and put Dropout layers before and after them."
            )
        for part in parts:
            if isinstance(part, kl.TimeDistributed) and isinstance(part.layer, LAYERS) and _is_rate(part.layer.rate):
                raise ValueError(
                    f"the layer {part.name} drops anew at each time step, which cannot be fixed to one mask. "
                    "Take its dropout layer out of TimeDistributed."
                )
        self.model, layers = model, [part for part in parts if isinstance(part, LAYERS) and _is_rate(part.rate)]
        if not layers:
            raise ValueError(
                f"{model.name} has no dropout layer with a rate above 0, so all its networks would be equal. "
                "Train a model with keras.layers.Dropout."
            )
        # It belongs to the model, because the model's compiled call reads its variable.
        kept = vars(model).get("_self_dropout", dict)()
        if list(kept) != [id(layer) for layer in layers]:
            seed = tf.Variable([0, 0], trainable=False, dtype=tf.int64)
            kept = {id(layer): (seed, layer, _as_in_training(layer, seed, place)) for place, layer in enumerate(layers)}
            vars(model)["_self_dropout"] = lambda: kept
        self._layers = [(layer, attributes) for _, layer, attributes in kept.values()]
        self._seed = next(iter(kept.values()))[0]

    def __reduce__(self) -> Any:
        raise TypeError("MCDropout cannot be copied or sent. Copy or send its model, and make a new MCDropout of it.")

    @contextmanager
    def fixed(self, seed: int, number: int) -> Iterator[keras.Model]:
        """Yield the model with the masks of network `number`."""
        own = [(layer, {name: vars(layer).get(name) for name in new}) for layer, new in self._layers]
        self._seed.assign(network_seed(seed, number))
        try:
            for layer, new in self._layers:
                vars(layer).update(new)
            yield self.model
        finally:
            for layer, old in own:
                for name, value in old.items():
                    vars(layer).pop(name)
                    if value is not None:
                        vars(layer)[name] = value


def _is_rate(value: Any) -> bool:
    numbers = int | float | np.number | tf.Variable
    return isinstance(value, numbers) and not isinstance(value, bool) and float(value) > 0


def _as_in_training(layer: keras.layers.Layer, seed: tf.Variable, place: int) -> dict[str, Any]:
    """Return the attributes with which a dropout layer acts as in training, with the numbers that belong to a seed."""

    @tf.autograph.experimental.do_not_convert
    def call(inputs: tf.Tensor, training: Any = None) -> tf.Tensor:
        how = {"training": True} if layer._expects_training_arg else {}
        return type(layer).call(layer, inputs, **how)

    return {"call": call, "_random_generator": _SharedNoise(seed, place)}


class _SharedNoise:
    """What a dropout layer draws from, in place of Keras' own generator. All examples share the numbers."""

    def __init__(self, seed: tf.Variable, place: int):
        self._seed, self._place = seed, place

    def random_uniform(self, shape: Any, dtype: tf.DType = tf.float32, **_: Any) -> tf.Tensor:
        shape = tf.concat([[1], tf.convert_to_tensor(shape)[1:]], 0)
        key = fold_in(self._seed.read_value(), self._place)
        return tf.cast(tf.random.stateless_uniform(shape, key, alg="philox"), dtype)

    def random_normal(self, shape: Any, mean: float, stddev: float, dtype: tf.DType, **_: Any) -> tf.Tensor:
        shape = tf.concat([[1], tf.convert_to_tensor(shape)[1:]], 0)
        key = fold_in(self._seed.read_value(), self._place)
        # The number of features may be unknown, for which `noise.stateless_normal` has no use.
        return tf.cast(tf.random.stateless_normal(shape, key, mean, stddev, alg="philox"), dtype)

    def dropout(self, inputs: tf.Tensor, rate: float, noise_shape: Any = None) -> tf.Tensor:
        kept = self.random_uniform(tf.shape(inputs) if noise_shape is None else noise_shape) >= rate
        return inputs * tf.cast(kept, inputs.dtype) / (1 - rate)
