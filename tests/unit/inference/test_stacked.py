"""The fast path: it gives what the general path gives, and takes only what it can."""

from helpers.inference import sample_outputs, stacked
from helpers.inference.networks import compile_networks
from helpers.inference.stacked import prefix_of, stackable

import numpy as np
import pytest
import tensorflow_probability as tfp
import tf_keras as keras

from tests.support.networks import KINDS, Subclassed, model_of, stack

tfpl, kl = tfp.layers, keras.layers
pytestmark = pytest.mark.filterwarnings("ignore")
# All others have a Bayesian layer that convolves or is within another layer, or are no stack.
FAST = {name for name in KINDS if name.startswith("dense") or "_FC_" in name} | {"correlated", "joint"}


@pytest.mark.parametrize("kind", KINDS)
def test_only_stacks_whose_bayesian_layers_are_dense_take_the_fast_path(kind):
    assert stackable(prefix_of(model_of(kind)[0])[1]) == (kind in FAST)


@pytest.mark.parametrize("kind", sorted(FAST))
def test_both_paths_give_the_same_outputs_with_the_same_weights(kind, monkeypatch):
    model, x = model_of(kind)
    assert compile_networks(model, x).stacked
    fast = sample_outputs(model, x, 3)
    monkeypatch.setattr(stacked, "PLAIN", set())
    monkeypatch.setattr(stacked, "DENSE", set())
    general, _ = model_of(kind)
    general.set_weights(model.get_weights())
    assert not compile_networks(general, x).stacked
    assert np.std(fast, axis=0).max() > 0.01
    np.testing.assert_allclose(fast, sample_outputs(general, x, 3), rtol=1e-4, atol=1e-5)


def test_a_model_of_its_own_call_gives_what_the_stack_of_its_layers_gives():
    x = np.random.default_rng(0).normal(size=(6, 4, 5))
    dense = [tfpl.DenseFlipout(7, activation="tanh"), kl.Dropout(0.5), kl.Flatten(), tfpl.DenseFlipout(3)]
    fast, general = stack((4, 5), *dense), Subclassed(*dense)
    assert compile_networks(fast, x).stacked and not compile_networks(general, x).stacked
    np.testing.assert_allclose(sample_outputs(fast, x, 40), sample_outputs(general, x, 40), atol=1e-5)


def test_a_stack_without_bayesian_layers_is_not_stacked():
    assert not stackable([kl.Flatten(), kl.Dense(3)])
