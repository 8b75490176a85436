"""The KL of random models: each posterior counts once, however its layer is called, and regularisers are none of it."""

from helpers import elbo
from helpers.elbo import NegativeElbo, kl_divergence
from helpers.layers import Convolution2DReparameterization, DenseFlipout, DenseReparameterization, gaussian_kl
from helpers.layers.divergence import regularisers

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras
from hypothesis import given, settings
from hypothesis import strategies as some

tfd, tfpl, layers = tfp.distributions, tfp.layers, keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:.*add_variable", "ignore:The initializer RandomNormal")
DENSE = [DenseFlipout, DenseReparameterization, tfpl.DenseFlipout, tfpl.DenseReparameterization, layers.Dense]


class Called(keras.Model):
    """A subclassed model, whose call may be compiled."""

    def __init__(self, inner, compiled):
        super().__init__()
        self.inner = inner
        self.run = tf.function(inner) if compiled else inner

    def call(self, inputs):
        return self.run(inputs)


def by_hand(layer):
    """Compute the KL of a mean-field posterior and a standard normal prior, weight by weight."""
    if not hasattr(layer, "kernel_posterior"):
        return 0.0
    m, s = layer.kernel_posterior.mean().numpy().ravel(), layer.kernel_posterior.stddev().numpy().ravel()
    return sum((s**2 + m**2 - 1) / 2 - np.log(s))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    kinds=some.lists(some.sampled_from(DENSE), min_size=1, max_size=4),
    wrap=some.sampled_from(["plain", "twice", "time", "nested"]),
    call=some.sampled_from(["as it is", "subclassed", "compiled"]),
    penalty=some.sampled_from([None, "l1", "l2"]),
)
def test_the_kl_of_a_random_model_is_the_sum_over_its_distinct_layers(tmp_path_factory, kinds, wrap, call, penalty):
    made = [kind(3) for kind in kinds]
    inputs = outputs = keras.Input((4, 3), batch_size=2)
    for layer in made:
        if wrap == "time":
            outputs = layers.TimeDistributed(layer)(outputs)
        elif wrap == "nested":
            outputs = keras.Sequential([layers.InputLayer((4, 3)), layer])(outputs)
        else:
            outputs = layer(layer(outputs)) if wrap == "twice" else layer(outputs)
    outputs = layers.Dense(2, kernel_regularizer=penalty, activity_regularizer=penalty)(layers.Flatten()(outputs))
    model = keras.Model(inputs, outputs)
    if call != "as it is":
        model = Called(model, call == "compiled")
    x, y = tf.ones([2, 4, 3]), tf.zeros([2], tf.int32)
    model(x)
    right = sum(map(by_hand, made))
    assert float(kl_divergence(model)) == pytest.approx(right, rel=1e-4)
    loss = tf.function(lambda: NegativeElbo()(model, x, y, 10)[:3])()
    assert float(loss[2]) == pytest.approx(right, rel=1e-4)
    if penalty is None:
        assert float(loss[0]) == pytest.approx(float(loss[1]) + right / 10, rel=1e-4)
    # Other values than the initial ones go through a file.
    for variable in model.trainable_variables:
        variable.assign_add(tf.random.stateless_normal(variable.shape, [1, 2]))
    path = str(tmp_path_factory.mktemp("saved") / "weights")
    changed = float(kl_divergence(model))
    assert changed == pytest.approx(sum(map(by_hand, made)), rel=1e-4)
    model.save_weights(path)
    for variable in model.trainable_variables:
        variable.assign(tf.ones_like(variable))
    model.load_weights(path).assert_consumed()
    assert float(kl_divergence(model)) == changed


def test_regularisers_have_the_scale_of_keras_and_are_reported_apart():
    plain = layers.Dense(8, kernel_regularizer=keras.regularizers.L2(0.5), activity_regularizer="l1")
    bayesian = tfpl.DenseFlipout(4, activity_regularizer="l1")
    model = keras.Sequential([layers.InputLayer((5,)), plain, bayesian, layers.ActivityRegularization(l2=0.1)])
    x, y = tf.random.stateless_normal([16, 5], [1, 2]), tf.zeros([16], tf.int32)
    loss, nll, kl, outputs, regulariser = NegativeElbo()(model, x, y, 100)
    of_outputs = np.sum(0.01 * np.abs(outputs) + 0.1 * np.square(outputs)) / 16
    right = 0.5 * np.sum(plain.kernel.numpy() ** 2) + 0.01 * np.sum(np.abs(plain(x))) / 16 + of_outputs
    assert float(kl) == pytest.approx(by_hand(bayesian), rel=1e-4)
    assert float(regulariser) == pytest.approx(right, rel=1e-4)
    assert float(loss) == pytest.approx(float(nll) + float(kl) / 100 + right, rel=1e-4)


@pytest.mark.parametrize("cls", [DenseReparameterization, DenseFlipout])
def test_weights_that_share_a_scale_or_a_mean_count_each_and_draw_each(cls):
    def tied(loc_shape, scale_shape):
        def posterior(dtype, shape, name, trainable, add_variable):
            how = {"dtype": dtype, "trainable": trainable}
            loc = add_variable(name + "_loc", shape=loc_shape or shape, initializer="ones", **how)
            scale = add_variable(
                name + "_scale", shape=scale_shape, initializer=keras.initializers.Constant(0.1), **how
            )
            scale = tfp.util.DeferredTensor(scale, tf.identity)
            return tfd.Independent(tfd.Normal(tf.broadcast_to(loc, shape) if loc_shape else loc, scale), len(shape))

        return posterior

    for shapes in ((None, []), (None, [1, 5]), ([1, 1], [4, 5])):
        layer = cls(5, kernel_posterior_fn=tied(*shapes), seed=3)
        outputs = layer(tf.eye(4))  # the weights themselves, with signs in flipout
        right = 20 * (0.1**2 + 1 - 1 - 2 * np.log(0.1)) / 2
        assert float(kl_divergence(layer)) == pytest.approx(right, rel=1e-5)
        assert float(layer.losses[0]) == pytest.approx(right, rel=1e-5)
        assert len(set(np.abs(np.ravel(outputs) - 1).round(6))) > 10


def test_a_posterior_that_two_layers_share_counts_once():
    first, second = DenseReparameterization(4), DenseReparameterization(4)
    model = keras.Sequential([layers.InputLayer((4,)), first, second])
    assert float(kl_divergence(model)) == pytest.approx(by_hand(first) + by_hand(second), rel=1e-4)
    second.kernel_posterior = first.kernel_posterior
    assert float(kl_divergence(model)) == pytest.approx(by_hand(first), rel=1e-4)


def test_the_kl_is_not_that_of_the_distribution_inside_a_transformed_one():
    q = tfd.MultivariateNormalDiag([1.0, 2.0], [0.5, 0.5])
    p = tfd.MultivariateNormalDiag([0.0, 0.0], [1.0, 1.0])
    right = 2 * (0.25 / 2 - 0.5 - np.log(0.5)) + 5 / 2
    assert float(gaussian_kl(q, p)) == pytest.approx(right, rel=1e-5)
    assert float(gaussian_kl(tfd.Sample(tfd.Normal(1.0, 1.0), 7), tfd.Sample(tfd.Normal(0.0, 1.0), 7))) == 3.5


def test_a_prior_without_a_formula_gives_an_estimate_from_a_draw():
    def mixture(dtype, shape, *_):
        both = tfd.Normal(tf.zeros([2], dtype), tf.ones([2], dtype))  # so that the right KL is known
        single = tfd.MixtureSameFamily(tfd.Categorical([0.0, 0.0]), both)
        return tfd.Independent(tfd.BatchBroadcast(single, shape), len(shape))

    layer = DenseReparameterization(20, kernel_prior_fn=mixture, seed=1)
    layer(tf.ones([1, 30]))
    found = [float(kl_divergence(layer)) for _ in range(30)]
    deviation = np.sqrt(600 / 2)  # of log q(w), which varies most
    assert len(set(found)) == 30
    assert abs(np.mean(found) - by_hand(layer)) < 4 * deviation / np.sqrt(30)


@pytest.mark.parametrize("exact", [True, False])
def test_a_joint_posterior_counts_without_its_own_weight(exact):
    def posterior(kernel, bias, dtype):
        size = kernel + bias
        one = lambda t: tfd.Independent(tfd.Normal(t, 1.0), 1)  # noqa: E731
        return keras.Sequential(
            [tfpl.VariableLayer(size, dtype=dtype, initializer="ones"), tfpl.DistributionLambda(one)]
        )

    def prior(kernel, bias, dtype):
        return lambda _: tfd.Independent(tfd.Normal(tf.zeros(kernel + bias), 1.0), 1)

    layer = tfpl.DenseVariational(3, posterior, prior, kl_weight=1 / 50, kl_use_exact=exact)
    model = keras.Sequential([layers.InputLayer((5,)), layer])
    assert float(kl_divergence(model)) == pytest.approx(18 / 2)


def test_a_divergence_that_is_divided_by_n_is_the_kl_all_the_same_and_none_is_none():
    scaled = lambda q, p, _: tfd.kl_divergence(q, p) / 1000  # noqa: E731
    layer = Convolution2DReparameterization(2, 3, kernel_divergence_fn=scaled)
    without = Convolution2DReparameterization(2, 3, kernel_divergence_fn=None)
    model = keras.Sequential([layers.InputLayer((8, 8, 1)), layer, without])
    assert float(kl_divergence(model)) == pytest.approx(by_hand(layer), rel=1e-4)


def test_the_kl_of_a_layer_written_by_hand_is_what_it_adds():
    class Own(layers.Layer):
        def build(self, shape):
            self.mean = self.add_weight("mean", [shape[-1], 3], initializer="ones")

        def call(self, inputs):
            self.add_loss(tf.reduce_sum(self.mean**2))
            return inputs @ self.mean

    model = keras.Sequential([layers.InputLayer((5,)), Own()])
    loss = NegativeElbo(elbo.categorical_nll)(model, tf.ones([2, 5]), tf.zeros([2], tf.int32), 10)
    assert float(loss.kl) == 15 and float(loss.regulariser) == 0 and not regularisers(model)
