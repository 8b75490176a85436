"""What `predict` asks of a `Posterior`: one network at a time, compiled once, and a model that is left as it was."""

import contextlib

from helpers.inference import Posterior, predict, sample_outputs
from helpers.inference.networks import compile_networks
from helpers.layers import noise

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras

from tests.support.networks import stack

kl = keras.layers
X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


class Shifted:
    """A posterior whose network is the model with all weights moved by number + seed / 16."""

    def __init__(self, model, members=None):
        self.model, self.members = model, members

    @contextlib.contextmanager
    def fixed(self, seed, number):
        kept = self.model.get_weights()
        self.model.set_weights([weight + number + seed / 16 for weight in kept])
        try:
            yield self.model
        finally:
            self.model.set_weights(kept)


class Ensemble:
    def __init__(self, *models):
        self.models, self.members = models, len(models)

    def fixed(self, seed, number):
        return contextlib.nullcontext(self.models[number])


def by_hand(model, x, number, seed):
    (a, b), (c, d) = ((w + number + seed / 16 for w in layer.get_weights()) for layer in model.layers)
    return np.tanh(x @ a + b) @ c + d


def model_of(seed=0):
    keras.utils.set_random_seed(seed)
    return stack((5,), kl.Dense(4, "tanh"), kl.Dense(3))


@pytest.mark.parametrize("budget", [512, 1e-3])
def test_a_network_is_the_call_of_the_model_that_is_yielded(budget):
    model = model_of()
    before, posterior = model.get_weights(), Shifted(model)
    assert isinstance(posterior, Posterior)
    right = [by_hand(model, X, number, 3) for number in range(4)]
    found = sample_outputs(posterior, X, 4, seed=3, budget_mb=budget)
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(predict(posterior, X, 4, seed=3), tf.nn.softmax(found), rtol=1e-4, atol=1e-6)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_members_may_run_out_and_each_model_is_compiled_once():
    models = [model_of(seed) for seed in range(3)]
    for _ in range(2):
        found = sample_outputs(Ensemble(*models), X, 8)
        assert len(sample_outputs(Ensemble(*models), X, 2)) == 2
    np.testing.assert_allclose(found, [model(X) for model in models], rtol=1e-5, atol=1e-6)
    many = Shifted(models[0])
    sample_outputs(models[0], X)
    assert len(sample_outputs(many, X, 5)) == 5
    networks = compile_networks(models[0], X, True)
    sample_outputs(models[0], X)
    sample_outputs(many, X, 5)
    assert compile_networks(models[0], X, True) is networks
    assert [function.experimental_get_tracing_count() for function in networks.traced] == [1, 1]


def test_a_model_with_bayesian_layers_takes_the_draw_of_its_number():
    models = [stack((5,), tfp.layers.DenseFlipout(3)) for _ in range(3)]
    for number, model in enumerate(models):
        model.layers[0].kernel_posterior.distribution.loc.assign(tf.fill([5, 3], float(number)))
    found = sample_outputs(Ensemble(*models), X, 3, seed=5)
    right = [sample_outputs(model, X, 3, seed=5)[number] for number, model in enumerate(models)]
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)
    assert np.abs(found - sample_outputs(models[0], X, 3, seed=5)).max() > 1e-3


def test_stateless_draws_whose_seed_is_a_variable_are_compiled():
    """This is how a method switches what layers do, without a new model for each network."""
    key, ran_as_python = tf.Variable([0, 0], dtype=tf.int64), []

    def key_of(seed, number):
        return noise.fold_in(tf.constant([seed, 0], tf.int64), tf.constant(number, tf.int64))

    def mask(h):
        ran_as_python.append(True)
        return h * noise.stateless_normal(key.read_value(), h.shape[1:])

    model = stack((5,), kl.Lambda(mask, dynamic=False), kl.Dense(2))

    class Masked:
        members = None

        @contextlib.contextmanager
        def fixed(self, seed, number):
            key.assign(key_of(seed, number))
            yield model

    ran_as_python.clear()
    found = sample_outputs(Masked(), X, 20, seed=2)
    assert len(ran_as_python) < 5
    for number in (0, 19):
        key.assign(key_of(2, number))
        np.testing.assert_allclose(found[number], model(X), rtol=1e-5, atol=1e-6)
    assert np.abs(found[0] - found[19]).max() > 0.1


def test_a_model_is_as_it_was_after_an_error():
    model = model_of()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"expected x \[N, 5\] .* found \[6, 4\]"):
        sample_outputs(Shifted(model), X[:, :4])
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_generators_are_read_once():
    parts = (part for part in (X[:4], X[4:]))
    model = model_of()
    np.testing.assert_allclose(sample_outputs(Shifted(model), parts, 3)[2], by_hand(model, X, 2, 0), rtol=1e-5)


def test_what_is_no_posterior_is_named():
    model = model_of()
    with pytest.raises(TypeError, match="expected a Keras model or a posterior with `members` and `fixed`, found list"):
        sample_outputs([model], X)
    with pytest.raises(TypeError, match="expected a Keras model or a posterior .* found type"):
        sample_outputs(keras.Sequential, X)
    with pytest.raises(TypeError, match="Ensemble.fixed to yield a Keras model, found list"):
        sample_outputs(Ensemble([model]), X)
    with pytest.raises(ValueError, match="at least 1 member, found members=0"):
        sample_outputs(Ensemble(), X)
    with pytest.raises(ValueError, match="at least 1 draw, found num_draws=0"):
        sample_outputs(Shifted(model), X, 0)
