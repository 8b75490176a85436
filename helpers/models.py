"""The catalogue of models: one record for each, and the function that builds it. Every model maps images to logits."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from helpers import layers as bayes
from helpers.data.catalogue import DATASETS

import tf_keras as keras

Layers = list[keras.layers.Layer]
# All layers start from He's initialisation (He et al. 2015), as the means of Bayesian layers do, so that a model and
# its twin differ in the posterior alone.
_Dense = partial(keras.layers.Dense, kernel_initializer="he_normal")
_Conv2D = partial(keras.layers.Conv2D, kernel_initializer="he_normal")
# The classes of layers that an architecture is made of, by the kind of layer that a record names.
_KINDS: dict[str, dict[str, Callable]] = {
    "deterministic": {"dense": _Dense, "conv": _Conv2D},
    "flipout": {"dense": bayes.DenseFlipout, "conv": bayes.Convolution2DFlipout},
    "reparameterisation": {"dense": bayes.DenseReparameterization, "conv": bayes.Convolution2DReparameterization},
}
PRECISIONS = ("none", "float16", "bfloat16")


def _fully_connected(kind: Mapping[str, Callable], num_classes: int) -> Layers:
    return [
        keras.layers.Flatten(),
        kind["dense"](64, activation="relu", name="dense_1"),
        _Dense(num_classes, name="dense_2", dtype="float32"),
    ]


def _convolutional(kind: Mapping[str, Callable], num_classes: int) -> Layers:
    return [
        kind["conv"](64, kernel_size=5, padding="same", activation="relu", name="conv_1"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Flatten(),
        _Dense(num_classes, name="dense_1", dtype="float32"),
    ]


def _lenet(kind: Mapping[str, Callable], num_classes: int) -> Layers:
    stack = []
    for block, filters in enumerate((24, 48), start=1):
        name = f"conv_{block}"
        stack.append(kind["conv"](filters, kernel_size=5, padding="same", activation="relu", name=name))
        stack.append(keras.layers.MaxPooling2D(2))
    stack += [keras.layers.Flatten(), kind["dense"](64, activation="relu", name="dense_1")]
    return [*stack, kind["dense"](num_classes, name="dense_2", dtype="float32")]


def _vgg(kind: Mapping[str, Callable], num_classes: int) -> Layers:
    stack = []
    for block, filters in enumerate((32, 64, 128), start=1):
        for place in "ab":
            name = f"conv_{block}{place}"
            stack.append(kind["conv"](filters, kernel_size=3, padding="same", activation="relu", name=name))
        stack.append(keras.layers.MaxPooling2D(2))
    stack += [keras.layers.Flatten(), kind["dense"](128, activation="relu", name="dense_1")]
    return [*stack, kind["dense"](num_classes, name="dense_2", dtype="float32")]


@dataclass(frozen=True)
class Record:
    """All facts about one model of the catalogue."""

    name: str
    architecture: Callable[[Mapping[str, Callable], int], Layers]  # (classes of layers, number of classes) -> layers
    kind: str  # "deterministic", "flipout" or "reparameterisation"
    twin: str | None  # the deterministic model of the same architecture; None of a deterministic model
    dataset: str  # the data set that the model is for
    help: str

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images of its data set."""
        return DATASETS[self.dataset].shape


_RECORDS = (
    Record("BNN_FC_flip", _fully_connected, "flipout", "CNN_FC", "mnist",
          "Dense 64, Bayesian with flipout, then Dense 10"),
    Record("BNN_FC_nonflip", _fully_connected, "reparameterisation", "CNN_FC", "mnist",
          "Dense 64, Bayesian with reparameterisation, then Dense 10"),
    Record("BNN_conv_flip", _convolutional, "flipout", "CNN_conv", "mnist",
          "convolution 5x5x64, Bayesian with flipout, max-pooling, then Dense 10"),
    Record("BNN_conv_nonflip", _convolutional, "reparameterisation", "CNN_conv", "mnist",
          "convolution 5x5x64, Bayesian with reparameterisation, max-pooling, then Dense 10"),
    Record("CNN_FC", _fully_connected, "deterministic", None, "mnist",
          "Dense 64, then Dense 10"),
    Record("CNN_conv", _convolutional, "deterministic", None, "mnist",
          "convolution 5x5x64, max-pooling, then Dense 10"),
    Record("BNN_LeNet_flip", _lenet, "flipout", "CNN_LeNet", "mnist",
          "convolutions 5x5x24 and 5x5x48, each with max-pooling, Dense 64, Dense 10, all Bayesian with flipout"),
    Record("CNN_LeNet", _lenet, "deterministic", None, "mnist",
          "convolutions 5x5x24 and 5x5x48, each with max-pooling, Dense 64, Dense 10"),
    Record("CIFAR10_BNN_model", _vgg, "flipout", "CIFAR10_CNN_model", "cifar10",
          "three VGG blocks, Dense 128, Dense 10, all Bayesian with flipout"),
    Record("CIFAR10_CNN_model", _vgg, "deterministic", None, "cifar10",
          "three VGG blocks, Dense 128, Dense 10"),
)  # fmt: skip
_CATALOGUE = {model.name: model for model in _RECORDS}
NAMES = tuple(_CATALOGUE)
BAYESIAN = tuple(model.name for model in _RECORDS if model.kind != "deterministic")
DETERMINISTIC = tuple(model.name for model in _RECORDS if model.kind == "deterministic")


def record(name: str) -> Record:
    """Return the record of a model.

    Args:
      name: one of `NAMES`, in any case.

    Raises:
      ValueError: there is no such model; the message lists those that there are.
    """
    return _CATALOGUE[canonical(name)]


def canonical(name: str) -> str:
    """Return the catalogue's spelling of a model's name, which may be in any case.

    Raises:
      ValueError: there is no such model; the message lists those that there are.
    """
    for known in NAMES:
        if known.lower() == name.lower():
            return known
    raise ValueError(f"there is no model {name!r}; choose one of: {', '.join(NAMES)}")


def twin(name: str) -> str:
    """Return the name of the deterministic model with the architecture of a Bayesian model.

    Args:
      name: one of `BAYESIAN`, in any case.

    Raises:
      ValueError: there is no such model, or it is deterministic and has no twin.
    """
    found = record(name)
    if found.twin is None:
        raise ValueError(f"{found.name} is deterministic and has no twin; choose one of: {', '.join(BAYESIAN)}")
    return found.twin


def build(
    name: str,
    input_shape: tuple[int, ...] | None = None,
    num_classes: int = 10,
    seed: int | None = None,
    mixed_precision: str = "none",
) -> keras.Sequential:
    """Build a model of the catalogue.

    Args:
      name: one of `NAMES`, in any case.
      input_shape: (height, width, channels) of one image; None: those of the model's data set.
      num_classes: number of classes.
      seed: the seed of the initial weights; it seeds the global generators of TensorFlow, NumPy and Python.
      mixed_precision: one of `PRECISIONS`. With "float16" or "bfloat16" all layers but the last one compute in this
        type, while parameters, the KL and the logits stay float32.

    Returns:
      A model from float images [B, H, W, C], scaled to [0, 1], to logits [B, num_classes].

    Raises:
      ValueError: there is no such model or no such precision.
    """
    found = record(name)
    if seed is not None:
        keras.utils.set_random_seed(seed)
    inputs = keras.layers.InputLayer(input_shape=tuple(input_shape or found.input_shape))
    with _policy(mixed_precision):
        layers = found.architecture(_KINDS[found.kind], num_classes)
    return keras.Sequential([inputs, *layers], name=found.name)


@contextmanager
def _policy(precision: str) -> Iterator[None]:
    """Let Keras make layers that compute in `precision` and keep float32 variables in this context."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(before if precision == "none" else f"mixed_{precision}")
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)
