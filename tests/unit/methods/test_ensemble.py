"""Which network of an ensemble is which, its mean, and its training on one rank. Two ranks: tests/ranks."""

import contextlib

from helpers.inference import Posterior, predict, sample_outputs
from helpers.methods.ensemble import Ensemble, train_members

import numpy as np
import pytest
import tensorflow_probability as tfp
import tf_keras as keras

from tests.support.networks import stack

X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


def dense(seed):
    keras.utils.set_random_seed(seed)
    return stack((5,), keras.layers.Dense(3))


class Moved:
    """A posterior without end: its network is the model with a bias of (seed, number, 0)."""

    members = None

    def __init__(self, model):
        self.model = model

    @contextlib.contextmanager
    def fixed(self, seed, number):
        bias = self.model.layers[-1].bias
        bias.assign([seed, number, 0])
        yield self.model
        bias.assign([0, 0, 0])


def test_models_are_the_networks_in_order():
    models = [dense(seed) for seed in range(3)]
    ensemble = Ensemble(models)
    assert isinstance(ensemble, Posterior) and ensemble.members == 3
    right = [X @ model.get_weights()[0] for model in models]
    np.testing.assert_allclose(sample_outputs(ensemble, X), right, rtol=1e-5, atol=1e-6)
    soft = [np.exp(logits) / np.exp(logits).sum(1, keepdims=True) for logits in right]
    np.testing.assert_allclose(predict(ensemble, X).mean(0), sum(soft) / 3, rtol=1e-5, atol=1e-6)
    nested = Ensemble([Ensemble(models[:2]), models[2]])
    assert nested.members == 3
    np.testing.assert_array_equal(sample_outputs(nested, X), sample_outputs(ensemble, X))


def test_draws_go_round_the_posteriors():
    models = [dense(seed) for seed in range(3)]
    ensemble = Ensemble([Moved(model) for model in models])
    assert ensemble.members is None
    right = [X @ models[s % 3].get_weights()[0] + [4, s, 0] for s in range(7)]
    np.testing.assert_allclose(sample_outputs(ensemble, X, 7, seed=4), right, rtol=1e-5, atol=1e-5)
    assert not any(model.get_weights()[1].any() for model in models)


def test_draws_go_round_bayesian_models():
    models = [stack((5,), tfp.layers.DenseReparameterization(3)) for _ in range(2)]
    found = sample_outputs(Ensemble(models), X, 4, seed=1)
    alone = [sample_outputs(model, X, 4, seed=1) for model in models]
    np.testing.assert_allclose(found, [alone[s % 2][s] for s in range(4)], rtol=1e-5, atol=1e-6)
    assert np.abs(found[0] - found[2]).max() > 1e-3


def test_members_are_trained_in_order_on_one_rank():
    assert train_members(lambda member: np.full(2, member), 3)[2].tolist() == [2, 2]
    with pytest.raises(KeyError, match="member 1"):
        train_members(lambda member: {0: 0}[member] if member == 0 else {}["member 1"], 3)
    with pytest.raises(ValueError, match="at least 1 member, found 0"):
        train_members(int, 0)


def test_what_is_no_ensemble_is_refused():
    with pytest.raises(ValueError, match="at least one member, found none"):
        Ensemble([])
    with pytest.raises(TypeError, match="found list"):
        Ensemble([dense(0), dense(1).get_weights()])
    with pytest.raises(ValueError, match=r"members of one kind, found \[1, None\] networks"):
        Ensemble([dense(0), Moved(dense(1))])
