"""Small models with every kind of Bayesian layer, at any place in a model."""

from helpers import models

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras

tfpl, tfd, kl = tfp.layers, tfp.distributions, keras.layers


def joint_posterior(kernel_size, bias_size, dtype=None):
    """Return the layers that make one posterior of kernel and bias."""
    n = kernel_size + bias_size
    variables = tfpl.VariableLayer(2 * n, dtype=dtype, initializer="random_normal")
    normal = tfpl.DistributionLambda(
        lambda t: tfd.Independent(tfd.Normal(t[..., :n], 0.1 + tf.nn.softplus(t[..., n:])), 1)
    )
    return keras.Sequential([variables, normal])


def joint_prior(kernel_size, bias_size, dtype=None):
    """Return a standard normal prior of kernel and bias."""
    return lambda x: tfd.Independent(tfd.Normal(tf.zeros([kernel_size + bias_size]), 1.0), 1)


def correlated_posterior(dtype, shape, name, trainable, add_variable_fn):
    """Make a posterior in which neighbouring weights have a correlation of 0.9."""
    n = int(np.prod(shape))
    covariance = 0.04 * 0.9 ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    normal = tfd.MultivariateNormalTriL(tf.ones([n]), tf.constant(np.linalg.cholesky(covariance), tf.float32))
    return tfd.TransformedDistribution(normal, tfp.bijectors.Reshape(shape))


def random_bias() -> dict:
    """Return the argument of a layer that gives its bias a posterior."""
    return {"bias_posterior_fn": tfpl.default_mean_field_normal_fn()}


def stack(shape: tuple, *layers: keras.layers.Layer) -> keras.Sequential:
    """Return a model of these layers, one after the other."""
    return keras.Sequential([kl.InputLayer(shape), *layers])


def branched() -> keras.Model:
    """Return a model that is no stack: it has a branch, a layer used twice, and a model within."""
    x = keras.Input((6,))
    shared = tfpl.DenseFlipout(6, activation="tanh")
    inner = stack((6,), tfpl.DenseReparameterization(4, activation="relu"), kl.Dense(4))
    return keras.Model(x, kl.Concatenate()([inner(shared(shared(x))), kl.Dense(2)(x)]))


class Subclassed(keras.Model):
    """A model with a `call` of its own, which applies these layers one after the other."""

    def __init__(self, *layers):
        super().__init__()
        self.stack = list(layers)

    def call(self, x):
        for layer in self.stack:
            x = layer(x)
        return x


# A model for every kind of layer, and for every place at which a layer may stand.
KINDS = {
    "dense flipout": lambda: stack((5,), tfpl.DenseFlipout(7, activation="tanh"), tfpl.DenseFlipout(3)),
    "dense wide": lambda: stack((64,), tfpl.DenseFlipout(64, activation="relu"), tfpl.DenseFlipout(10)),
    "dense reparameterization": lambda: stack((5,), tfpl.DenseReparameterization(3, **random_bias())),
    "dense local": lambda: stack((5,), tfpl.DenseLocalReparameterization(3, activation="relu")),
    "dense on sequences": lambda: stack((4, 5), tfpl.DenseReparameterization(3), kl.Flatten(), kl.Dense(2)),
    "dense without bias": lambda: stack((5,), tfpl.DenseFlipout(3, bias_posterior_fn=None)),
    "correlated": lambda: stack(
        (5,), tfpl.DenseReparameterization(3, kernel_posterior_fn=correlated_posterior, kernel_divergence_fn=None)
    ),
    "joint": lambda: stack((5,), tfpl.DenseVariational(3, joint_posterior, joint_prior, activation="tanh")),
    "conv 1": lambda: stack((9, 2), tfpl.Convolution1DFlipout(4, 3, strides=2, padding="same"), kl.Flatten()),
    "conv 2": lambda: stack((6, 7, 2), tfpl.Convolution2DFlipout(3, (3, 2), activation="relu"), kl.Flatten()),
    "conv 2 wide": lambda: stack(
        (7, 7, 1), tfpl.Convolution2DReparameterization(3, 3, dilation_rate=2, **random_bias()), kl.Flatten()
    ),
    "conv 3": lambda: stack((4, 4, 4, 1), tfpl.Convolution3DFlipout(2, 2, activation="elu"), kl.Flatten()),
    "conv 3 shared": lambda: stack((4, 4, 4, 1), tfpl.Convolution3DReparameterization(2, 3), kl.Flatten()),
    "mixed": lambda: stack(
        (8, 8, 1), kl.Conv2D(3, 3), kl.BatchNormalization(), kl.LeakyReLU(), tfpl.Convolution2DFlipout(4, 3),
        kl.MaxPooling2D(2), kl.Lambda(tf.tanh), kl.Dropout(0.5), kl.Flatten(), tfpl.DenseFlipout(3),
    ),
    "wrapped": lambda: stack((3, 5), kl.TimeDistributed(tfpl.DenseReparameterization(2)), kl.Flatten()),
    "branched": branched,
    **{name: lambda name=name: models.build(name, (8, 8, 1)) for name in models.BAYESIAN},
}  # fmt: skip


def model_of(kind: str, seed: int = 0) -> tuple[keras.Model, np.ndarray]:
    """Return a model of this kind, with wider posteriors than those that training starts from, and its inputs."""
    keras.utils.set_random_seed(seed)
    model = KINDS[kind]()
    for variable in model.trainable_variables:
        if "untransformed_scale" in variable.name:
            variable.assign(tf.random.uniform(variable.shape, -3.0, -1.5))
    return model, np.random.default_rng(seed).normal(size=(6, *model.input_shape[1:])).astype(np.float32)
