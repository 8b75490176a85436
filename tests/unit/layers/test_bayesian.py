"""The Bayesian layers: their gradients, their KL, their configuration, and how they stand beside TFP's."""

from helpers.elbo import NegativeElbo
from helpers.inference import variational_layers
from helpers.layers import (
    Convolution2DFlipout,
    Convolution2DReparameterization,
    DenseFlipout,
    DenseReparameterization,
    gaussian_kl,
)

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras

from tests.support.layers import ALL, GROUPED, TWO_PRODUCTS, WRITTEN_OUT, deviations, layer_for, worst

tfd = tfp.distributions
# TFP's layers cause these warnings, and ours avoid them.
pytestmark = pytest.mark.filterwarnings("ignore:.*add_variable", "ignore:The initializer RandomNormal")


@pytest.mark.parametrize("cls, case", [(DenseReparameterization, None), (Convolution2DReparameterization, GROUPED[0])])
def test_outputs_of_a_shared_draw_have_the_exact_moments(cls, case):
    """All places of all examples share one draw of the weights."""
    found = deviations(*layer_for(cls, case, seed=5))
    assert max(found["mean"], found["within"], found["units"], found["shared"]) < 5.5
    assert found["independent"] > 7  # so these draws would show if the examples were uncorrelated


@pytest.mark.parametrize(
    "cls, case",
    [
        (DenseFlipout, None),
        (DenseReparameterization, None),
        (Convolution2DFlipout, WRITTEN_OUT[0]),
        (Convolution2DFlipout, GROUPED[0]),
        (Convolution2DFlipout, TWO_PRODUCTS[0]),
    ],
)
def test_gradients_are_unbiased(cls, case):
    """The expected square loss follows from mean and variance of the outputs, and so do its exact gradients."""
    layer, x = layer_for(cls, case, seed=5)
    layer(x)
    target = 0.5

    @tf.function
    def estimate(_):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((layer(x) - target) ** 2)
        return tape.gradient(loss, layer.trainable_variables)

    draws = tf.function(lambda: tf.map_fn(estimate, tf.range(1000), fn_output_signature=[tf.float32] * 2))()
    apply = tf.matmul if case is None else layer._convolution_op
    with tf.GradientTape() as tape:
        q = layer.kernel_posterior.distribution
        mean, variance = apply(tf.constant(x), q.loc), apply(tf.constant(x**2), tf.convert_to_tensor(q.scale) ** 2)
        loss = tf.reduce_mean((mean - target) ** 2 + variance)
    exact = tape.gradient(loss, layer.trainable_variables)
    for estimates, gradient in zip(draws, exact, strict=True):
        assert worst(estimates.numpy(), gradient.numpy()) < 5.5


@pytest.mark.parametrize("ours, stock", [(DenseFlipout, tfp.layers.DenseFlipout),
                                         (Convolution2DFlipout, tfp.layers.Convolution2DFlipout)])  # fmt: skip
def test_the_kl_is_tfps(ours, stock):
    """So are its gradients. The weights of a layer are those of TFP's layer, in the same order."""

    def prior(dtype, shape, *_):
        return tfd.Independent(tfd.Normal(tf.fill(shape, 0.2), tf.fill(shape, 0.7)), len(shape))

    shape = (2, 20, 20, 3)
    for more in ({}, {"kernel_prior_fn": prior}):
        layers = [cls(5, *[3] * (cls.__name__[0] == "C"), **more) for cls in (ours, stock)]
        results = []
        for layer in layers:
            layer.build(shape)
            layer.set_weights(layers[0].get_weights())
            with tf.GradientTape() as tape:
                layer(np.zeros(shape, np.float32))
                (loss,) = layer.losses
            results.append([loss, *tape.gradient(loss, layer.trainable_variables[:2])])
        for mine, theirs in zip(*results, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6)


def test_the_kl_of_other_distributions_is_left_to_tfp():
    laplace = tfd.Independent(tfd.Laplace(tf.zeros(3), tf.ones(3)), 1)
    narrow = tfd.Independent(tfd.Laplace(tf.zeros(3), 0.5 * tf.ones(3)), 1)
    assert float(gaussian_kl(narrow, laplace)) == pytest.approx(float(tfd.kl_divergence(narrow, laplace)))


def test_ours_stand_beside_tfps_and_train():
    model = keras.Sequential([
        keras.layers.InputLayer((8, 8, 1)),
        Convolution2DFlipout(4, 3, padding="same", activation="relu"),
        tfp.layers.Convolution2DReparameterization(4, 3, activation="relu"),
        keras.layers.Flatten(),
        tfp.layers.DenseFlipout(8, activation="relu"),
        DenseReparameterization(3),
    ])  # fmt: skip
    random = np.random.default_rng(0)
    x, y = random.normal(size=(64, 8, 8, 1)).astype(np.float32), random.integers(0, 3, 64)
    before = [weights.copy() for weights in model.get_weights()]
    model(x)
    assert len(model.losses) == 4 and len(variational_layers(model)) == 4
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=24, verbose=0)  # the last batch is smaller
    changed = [np.any(old != new) for old, new in zip(before, model.get_weights(), strict=True)]
    assert all(changed)
    loss, *_ = NegativeElbo()(model, x, y, num_examples=64)
    assert np.isfinite(float(loss))


@pytest.mark.parametrize("cls", ALL)
def test_a_layer_can_be_made_again_from_its_configuration(cls):
    how = [3] if cls.__name__.startswith("Conv") else []
    layer = cls(4, *how, activation="relu", kernel_prior_fn=None, seed=3, name="again")
    model = keras.Sequential([keras.layers.InputLayer((9, 9, 2)), layer])
    clone = keras.models.clone_model(model)
    again = clone.layers[0]
    assert type(again) is cls and again.name == "again" and again.activation is keras.activations.relu
    assert again.kernel_prior is None and not clone.losses
    clone.set_weights(model.get_weights())
    x = np.ones((2, 9, 9, 2), np.float32)
    layer.generator.reset_from_seed(3)
    again.generator.reset_from_seed(3)
    np.testing.assert_array_equal(clone(x), model(x))


def test_initial_values_are_those_of_a_deterministic_network():
    layer = DenseFlipout(300)
    layer.build((None, 200))
    q = layer.kernel_posterior
    assert np.std(q.mean()) == pytest.approx(np.sqrt(2 / 200), rel=0.02)
    np.testing.assert_allclose(q.stddev(), 0.01, rtol=2e-3)
    np.testing.assert_array_equal(layer.bias_posterior.mean(), 0)


def test_other_posteriors_and_types_draw_from_the_layers_generator():
    def laplace(dtype, shape, name, trainable, add_variable):
        loc = add_variable(name, shape=shape, initializer="zeros", dtype=dtype, trainable=trainable)
        return tfd.Independent(tfd.Laplace(loc, tf.ones([], dtype)), len(shape))

    arguments = {"kernel_posterior_fn": laplace, "kernel_prior_fn": None, "seed": 4, "dtype": "float64"}
    one, two = DenseReparameterization(3, **arguments), DenseReparameterization(3, **arguments)
    x = tf.ones([2, 5], tf.float64)
    first = one(x)
    np.testing.assert_array_equal(two(x), first)
    assert np.max(np.abs(one(x) - first)) > 0.01
    with pytest.raises(TypeError, match="Normal"):
        DenseFlipout(3, **arguments)(x)
    assert DenseFlipout(3, dtype="float64")(x).dtype == tf.float64
