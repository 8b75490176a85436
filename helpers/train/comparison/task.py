"""The task on which methods are compared: a data set with its split, a network with its start, and a budget."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from helpers import data, layers, models
from helpers.data import Dataset
from helpers.train.choices import Examples

import numpy as np
import tensorflow_probability as tfp
import tf_keras as keras


class Task(NamedTuple):
    """A data set with its split, a network, and the budget that each method has.

    Attributes:
      name: of the task, which also names the folder of its runs.
      dataset: where the examples are from.
      model: the name of the deterministic model in the catalogue.
      training, held_out, test: the split. The held-out examples are the last ones of the training set.
      strangers: uint8 images of the same shape that belong to no class.
      epochs, batch_size: they fix the number of gradient evaluations of one network.
      augment: a change of the images of a batch.
      draws: networks that a method draws to predict, unless it has fewer.
      corrupted, corrupted_draws: images and draws of `shift_scores`.
    """

    name: str
    dataset: Dataset
    model: str
    training: Examples
    held_out: Examples
    test: Examples
    strangers: np.ndarray
    epochs: int
    batch_size: int
    augment: Callable
    draws: int
    corrupted: int
    corrupted_draws: int

    @property
    def steps(self) -> int:
        """The number of gradient evaluations in the training of one network."""
        return self.epochs * data.steps_per_epoch(len(self.training.x), self.batch_size, 1)


class Plan(NamedTuple):
    """A task without its data: the names of its model and of its strangers, and its epochs in each profile."""

    model: str
    strangers: str
    augment: Callable
    epochs: dict[str, int]


TASKS = {
    "mnist": Plan("CNN_LeNet", "fashion_mnist", partial(data.shift, reach=2), {"quick": 3, "full": 4}),
    "fashion_mnist": Plan("CNN_LeNet", "mnist", data.reflect, {"quick": 3, "full": 12}),
    "cifar10": Plan("CIFAR10_CNN_model", "mnist", data.shift_and_reflect, {"quick": 1, "full": 8}),
}


def make_task(name: str, profile: str, folder: Path | str | None = None, epochs: int | None = None) -> Task:
    """Return the task of a data set.

    Args:
      name: "mnist", "fashion_mnist" or "cifar10".
      profile: "quick" or "full".
      folder: where the data sets are, as `data.load` takes it.
      epochs: of the training, in place of the profile's. The runs of such a task have a folder of their own.

    Raises:
      ValueError: there is no such task or profile.
      data.DataError: see `data.load`.
    """
    if name not in TASKS or profile not in ("quick", "full"):
        raise ValueError(f"expected one of {', '.join(TASKS)} and quick or full, found {name!r} and {profile!r}")
    plan = TASKS[name]
    dataset, strangers = (data.load(each, folder, quiet=True) for each in (name, plan.strangers))
    quick, photographs = profile == "quick", name == "cifar10"
    held_out, few = min(5_000, len(dataset.x_train) // 8), 1_000 if quick else None
    training, test = len(dataset.x_train) - held_out, 500 if quick else None
    return Task(
        name=f"{dataset.name}-{profile}" + (f"-{epochs}-epochs" if epochs else ""),
        dataset=dataset,
        model=plan.model,
        training=Examples(dataset.x_train[: few or training], dataset.y_train[: few or training]),
        held_out=Examples(dataset.x_train[training:][:few], dataset.y_train[training:][:few]),
        test=Examples(dataset.x_test[:test], dataset.y_test[:test]),
        strangers=_of_shape(strangers.x_test[: 500 if quick else 5_000], dataset.input_shape),
        epochs=epochs or plan.epochs[profile],
        batch_size=64,
        augment=plan.augment,
        draws=10 if quick or photographs else 30,  # as many for each of five members
        corrupted=100 if quick else 500 if photographs else 1_000,
        corrupted_draws=5 if quick or photographs else 15,
    )


def _of_shape(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return images [N, H, W, C] with black edges, and with equal channels, as wide and as many as `shape` asks for."""
    edges = [(wanted - found) // 2 for wanted, found in zip(shape[:2], images.shape[1:3], strict=True)]
    images = np.pad(images, [(0, 0), *((edge, edge) for edge in edges), (0, 0)])
    return np.repeat(images, shape[-1] // images.shape[-1], axis=-1)


def network(task: Task, seed: int, prior_scale: float | None = None, rate: float = 0.0) -> keras.Sequential:
    """Build the task's deterministic network.

    Args:
      task: the task.
      seed: the seed of its initial weights, which are He's (He et al. 2015).
      prior_scale: standard deviation of the Gaussian prior of a kernel, in units of sqrt(2 / fan-in). Its negative
        logarithm over N is added to the loss, so that training finds the maximum a posteriori. None adds nothing.
      rate: of the dropout before each layer with weights but the first (Gal and Ghahramani 2016).
    """
    model = models.build(task.model, task.dataset.input_shape, task.dataset.num_classes, seed=seed)
    stack: list[keras.layers.Layer] = []
    for layer in model.layers:
        if rate and layer.weights and any(earlier.weights for earlier in stack):
            stack.append(keras.layers.Dropout(rate))
        if prior_scale and layer.weights:
            variance = prior_scale**2 * 2 / np.prod(layer.kernel.shape[:-1])
            layer.kernel_regularizer = keras.regularizers.L2(1 / (2 * len(task.training.x) * variance))
        stack.append(layer)
    inputs = keras.layers.InputLayer(task.dataset.input_shape)
    changed = keras.Sequential([inputs, *map(_again, stack)], name=task.model)
    changed.set_weights(model.get_weights())
    return changed


def _again(layer: keras.layers.Layer) -> keras.layers.Layer:
    return type(layer).from_config(layer.get_config())


def flipout_network(task: Task, seed: int, prior_scale: float) -> keras.Sequential:
    """Build the BNN whose kernels have the same start, as their means, and the same prior as those of `network`."""
    name = next(
        name for name in models.BAYESIAN if models.twin(name) == task.model and name.endswith(("flip", "model"))
    )

    def prior(dtype, shape, name, trainable, add_variable_fn):  # the arguments that tfp.layers give
        scale = np.full(shape, prior_scale * np.sqrt(2 / np.prod(shape[:-1])), dtype.as_numpy_dtype)
        return tfp.distributions.Independent(tfp.distributions.Normal(np.zeros_like(scale), scale), len(shape))

    classes = {"dense": layers.DenseFlipout, "conv": layers.Convolution2DFlipout}
    kinds = {kind: partial(cls, kernel_prior_fn=prior) for kind, cls in classes.items()}
    stack = models.record(name).architecture(kinds, task.dataset.num_classes)
    model = keras.Sequential([keras.layers.InputLayer(task.dataset.input_shape), *stack], name=name)
    for layer, start in zip(model.layers, network(task, seed).layers, strict=True):
        if layer.weights:
            layer.kernel_posterior.distribution.loc.assign(start.kernel)
    return model
