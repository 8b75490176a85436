"""Bayesian layers, which take the arguments of the tfp.layers classes that they extend."""

from helpers import keras2  # noqa: F401, I001  (before TensorFlow)
from helpers.layers.bayesian import (
    INITIAL_SCALE,
    Convolution2DFlipout,
    Convolution2DReparameterization,
    DenseFlipout,
    DenseReparameterization,
    gaussian_kl,
)
from helpers.layers.noise import seed_noise

__all__ = [
    "INITIAL_SCALE",
    "Convolution2DFlipout",
    "Convolution2DReparameterization",
    "DenseFlipout",
    "DenseReparameterization",
    "gaussian_kl",
    "seed_noise",
]
