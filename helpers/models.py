"""The catalogue: one function a model, found by its name. Every model maps images to logits."""

import contextlib

from helpers import layers as bayes

import tf_keras as keras

_PLAIN = {"dense": keras.layers.Dense, "conv": keras.layers.Conv2D}
_FLIPOUT = {"dense": bayes.DenseFlipout, "conv": bayes.Convolution2DFlipout}
_SHARED = {"dense": bayes.DenseReparameterization, "conv": bayes.Convolution2DReparameterization}


def _fully_connected(kind, num_classes):
    return [
        keras.layers.Flatten(),
        kind["dense"](64, activation="relu", name="dense_1"),
        keras.layers.Dense(num_classes, name="dense_2", dtype="float32"),
    ]


def _convolutional(kind, num_classes):
    return [
        kind["conv"](64, kernel_size=5, padding="same", activation="relu", name="conv_1"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Flatten(),
        keras.layers.Dense(num_classes, name="dense_1", dtype="float32"),
    ]


def _vgg(kind, num_classes):
    stack = []
    for block, filters in enumerate((32, 64, 128), start=1):
        for place in "ab":
            name = f"conv_{block}{place}"
            stack.append(kind["conv"](filters, kernel_size=3, padding="same", activation="relu", name=name))
        stack.append(keras.layers.MaxPooling2D(2))
    stack += [keras.layers.Flatten(), kind["dense"](128, activation="relu", name="dense_1")]
    return [*stack, kind["dense"](num_classes, name="dense_2", dtype="float32")]


_CATALOGUE = {
    "BNN_FC_flip": (_fully_connected, _FLIPOUT),
    "BNN_FC_nonflip": (_fully_connected, _SHARED),
    "BNN_conv_flip": (_convolutional, _FLIPOUT),
    "BNN_conv_nonflip": (_convolutional, _SHARED),
    "CNN_FC": (_fully_connected, _PLAIN),
    "CNN_conv": (_convolutional, _PLAIN),
    "CIFAR10_BNN_model": (_vgg, _FLIPOUT),
    "CIFAR10_CNN_model": (_vgg, _PLAIN),
}
NAMES = tuple(_CATALOGUE)
PRECISIONS = ("none", "float16", "bfloat16")
_TWINS = {
    "BNN_FC_flip": "CNN_FC",
    "BNN_FC_nonflip": "CNN_FC",
    "BNN_conv_flip": "CNN_conv",
    "BNN_conv_nonflip": "CNN_conv",
    "CIFAR10_BNN_model": "CIFAR10_CNN_model",
}
BAYESIAN = tuple(_TWINS)
DETERMINISTIC = tuple(name for name in NAMES if name not in _TWINS)


def canonical(name):
    """The catalogue's spelling of `name`, whatever its case.

    Raises:
      ValueError: there is no such model; the message lists those there are.
    """
    for known in NAMES:
        if known.lower() == name.lower():
            return known
    raise ValueError(f"there is no model {name!r}; choose one of: {', '.join(NAMES)}")


@contextlib.contextmanager
def _policy(precision):
    """In this context Keras makes layers that compute in `precision` and keep float32 variables."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(before if precision == "none" else f"mixed_{precision}")
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def build(name, input_shape=(28, 28, 1), num_classes=10, seed=None, mixed_precision="none"):
    """Build a model of the catalogue.

    Args:
      name: one of `NAMES`, in any case.
      input_shape: (height, width, channels) of one image.
      num_classes: number of classes.
      seed: int, of the initial weights; it seeds the global generators of TensorFlow, NumPy and Python.
      mixed_precision: one of `PRECISIONS`: "float16" or "bfloat16", in which all layers but the last one compute;
        parameters, the KL and the logits stay float32.

    Returns:
      A `keras.Sequential` from float images [B, H, W, C], scaled to [0, 1], to logits [B, num_classes].

    Raises:
      ValueError: there is no such model.
    """
    name = canonical(name)
    make, kind = _CATALOGUE[name]
    if seed is not None:
        keras.utils.set_random_seed(seed)
    inputs = keras.layers.InputLayer(input_shape=tuple(input_shape))
    with _policy(mixed_precision):
        layers = make(kind, num_classes)
    return keras.Sequential([inputs, *layers], name=name)


def twin(name):
    """The name of the deterministic model with the same architecture as the Bayesian model `name`."""
    return _TWINS[canonical(name)]
