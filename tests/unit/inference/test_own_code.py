"""Models with code of a reader's own: what they depend on and what they draw is read anew at each prediction."""

import os
import random
import types

from helpers import layers as own
from helpers.inference import sample_outputs
from helpers.layers.divergence import kl_divergence

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras
from tensorflow_probability import distributions as tfd

kl = keras.layers
X = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
pytestmark = pytest.mark.filterwarnings("ignore")


class Apply(kl.Layer):
    """Applies a function to its inputs and a value."""

    def __init__(self, function, value=None):
        super().__init__()
        self.function, self.value = function, value

    def call(self, inputs):
        return self.function(inputs, self.value)


def narrow(shape):
    """A Bayesian layer all of whose weights are one."""
    layer = own.DenseFlipout(2)
    model = keras.Sequential([kl.InputLayer(shape), layer])
    layer.set_weights([np.ones((*shape, 2)), np.full((*shape, 2), -60.0), np.zeros(2)])
    return model, layer


@pytest.mark.parametrize(
    ("layer", "differs"), [(kl.Dropout(0.5), True), (kl.GaussianNoise(1.0), True), (kl.BatchNormalization(), False)]
)
def test_an_argument_without_its_name_belongs_to_the_model_too(layer, differs):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, narrow((4,))[1](layer(inputs, True)))
    outputs = sample_outputs(model, X, 5)
    if differs:
        assert len({draw.tobytes() for draw in outputs}) == 5
    else:  # the moments of the batch, and not the moving averages
        np.testing.assert_allclose(outputs[0], model(X, training=False), atol=1e-5)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.float32(1), np.float32(5)),
        (tf.constant(1.0), tf.constant(5.0)),
        (types.SimpleNamespace(a=1.0), types.SimpleNamespace(a=5.0)),
        ({"a": {"b": 1.0}}, {"a": {"b": 5.0}}),
    ],
)
def test_a_changed_value_changes_the_outputs(first, second):
    def product(inputs, value):
        value = value["a"]["b"] if hasattr(value, "keys") else getattr(value, "a", value)
        return inputs * value

    layer = Apply(product, first)
    model = keras.Sequential([kl.InputLayer((4,)), kl.Dense(3), layer])
    before = sample_outputs(model, X, 1)
    layer.value = second
    np.testing.assert_allclose(sample_outputs(model, X, 1), 5 * before, rtol=1e-4)


def test_a_replaced_variable_or_posterior_is_used():
    model, layer = narrow((4,))
    sample_outputs(model, X, 1)
    layer.kernel_posterior = tfd.Independent(tfd.Normal(tf.fill([4, 2], 7.0), 1e-6), 2)
    np.testing.assert_allclose(sample_outputs(model, X, 1)[0], 7 * X.sum(axis=1, keepdims=True) + [0, 0], atol=1e-3)
    dense = kl.Dense(2, use_bias=False)
    model = keras.Sequential([kl.InputLayer((4,)), dense, kl.ReLU()])
    sample_outputs(model, X, 1)
    dense.kernel = tf.Variable(tf.ones([4, 2]))
    np.testing.assert_allclose(sample_outputs(model, X, 1)[0], model(X), atol=1e-5)


@pytest.mark.parametrize(
    "draw",
    [
        lambda _, __: random.gauss(0, 1),
        lambda _, generator: np.float32(generator.normal()),
        lambda _, __: float(int.from_bytes(os.urandom(2), "big")),
    ],
    ids=["random", "numpy", "system"],
)
@pytest.mark.parametrize("bayesian", [False, True])
def test_numbers_that_tensorflow_does_not_draw_are_drawn_for_each_network(draw, bayesian):
    noise = Apply(lambda inputs, generator: inputs + draw(inputs, generator), np.random.default_rng(1))
    layer = own.DenseFlipout(2) if bayesian else kl.Dense(2)
    outputs = sample_outputs(keras.Sequential([kl.InputLayer((4,)), noise, layer]), X, 5)
    assert len(outputs) == 5 and outputs[:, 0, 0].std() > 0.01


CLOSED = tf.random.Generator.from_seed(1)


@pytest.mark.parametrize("place", ["list", "object", "closure"])
def test_a_generator_anywhere_begins_anew_and_is_left_as_it_was(place):
    generator = CLOSED if place == "closure" else tf.random.Generator.from_seed(1)
    value = {"list": [generator], "object": types.SimpleNamespace(g=generator), "closure": None}[place]
    find = {"list": lambda v: v[0], "object": lambda v: v.g, "closure": lambda _: CLOSED}[place]
    model = keras.Sequential([kl.InputLayer((4,)), Apply(lambda inputs, v: inputs + find(v).normal([]), value)])
    state = generator.state.numpy()
    once, again = sample_outputs(model, X, 4), sample_outputs(model, X, 4)
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(generator.state.numpy(), state)
    assert len({draw.tobytes() for draw in once}) == 4


def test_posteriors_that_share_their_variables_and_not_their_means_count_each():
    scale, count = tf.Variable(-1.0), iter(range(9))

    def posterior(dtype, shape, name, trainable, add_variable_fn):
        mean = tf.constant(np.random.default_rng(next(count)).normal(size=shape), dtype)
        shared = tfp.util.DeferredTensor(scale, lambda v: tf.nn.softplus(v) * tf.ones(shape), shape=shape)
        return tfd.Independent(tfd.Normal(mean, shared), len(shape))

    dense = [tfp.layers.DenseReparameterization(4, kernel_posterior_fn=posterior) for _ in range(2)]
    model = keras.Sequential([kl.InputLayer((4,)), *dense])
    right = sum(tf.reduce_sum(tfd.kl_divergence(part.kernel_posterior, part.kernel_prior)) for part in dense)
    np.testing.assert_allclose(kl_divergence(model), right, rtol=1e-5)
    dense[1].kernel_posterior = dense[0].kernel_posterior
    np.testing.assert_allclose(kl_divergence(model), kl_divergence(keras.Sequential(dense[:1])), rtol=1e-5)


def test_a_posterior_that_reads_its_inputs_is_called_as_it_is():
    def posterior(kernel_size, bias_size=0, dtype=None):
        make = tfp.layers.DistributionLambda(lambda t: tfd.Independent(tfd.Normal(t, 1e-6), 1))
        mean = kl.Lambda(lambda t: tf.reduce_mean(t, 0))
        return keras.Sequential([kl.Dense(kernel_size + bias_size, kernel_initializer="ones"), mean, make])

    def prior(kernel_size, bias_size=0, dtype=None):
        return lambda _: tfd.Independent(tfd.Normal(tf.zeros(kernel_size + bias_size), 1.0), 1)

    model = keras.Sequential([kl.InputLayer((4,)), tfp.layers.DenseVariational(2, posterior, prior)])
    right = model(X)
    np.testing.assert_allclose(sample_outputs(model, X, 1)[0], right, atol=1e-3)
    np.testing.assert_allclose(kl_divergence(model), sum(model.losses), rtol=1e-5)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ma.masked_array(X, X > 0), "masked array"),
        (X.astype(complex), "real numbers, found complex"),
        (np.zeros((7, 4), "datetime64[s]"), "real numbers, found datetime64"),
        (tf.sparse.from_dense(X), "dense inputs, found SparseTensor"),
    ],
)
def test_inputs_whose_meaning_would_be_lost_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        sample_outputs(keras.Sequential([kl.InputLayer((4,)), kl.Dense(2)]), x, 1)


def test_uint8_that_may_be_no_images_is_refused_or_named():
    images = np.full((3, 4, 4, 1), 7, np.uint8)
    scaled = keras.Sequential([kl.InputLayer((4, 4, 1)), kl.Lambda(lambda t: t / 255), kl.Flatten(), kl.Dense(2)])
    with pytest.warns(UserWarning, match="uint8 was taken for images and scaled"):
        sample_outputs(scaled, images, 1)
    with pytest.raises(ValueError, match="values up to 1. Pass data.normalise"):
        sample_outputs(keras.Sequential([kl.InputLayer((4, 4, 1)), kl.Flatten()]), images // 7, 1)
