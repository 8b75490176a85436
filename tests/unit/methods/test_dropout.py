"""MC dropout against masks that NumPy applies, and against the moments that theory gives."""

from helpers.inference import Posterior, predict, sample_outputs
from helpers.inference.networks import compile_networks
from helpers.methods.dropout import MCDropout

import numpy as np
import pytest
import tf_keras as keras

from tests.support.networks import stack

kl = keras.layers
X = np.random.default_rng(0).normal(1, 1, (6, 40)).astype(np.float32)


def linear(layer, *before):
    """A model whose output shows what its one dropout layer makes of the input."""
    return stack((40,), *before, layer)


def test_a_network_has_one_mask_for_all_examples():
    found = sample_outputs(MCDropout(linear(kl.Dropout(0.25))), X, 200, seed=3)
    kept = found != 0
    assert (kept == kept[:, :1]).all()
    np.testing.assert_allclose(found, kept * X / 0.75, rtol=1e-6)
    # 200 * 40 Bernoulli numbers of mean 0.75 and standard deviation 0.433: five standard errors.
    assert abs(kept[:, 0].mean() - 0.75) < 5 * 0.433 / np.sqrt(200 * 40)
    assert len(np.unique(kept[:, 0], axis=0)) == 200
    # Neighbours in the order of draws and of features are not correlated.
    signs = kept[:, 0] - kept[:, 0].mean()
    for a, b in ((signs[1:], signs[:-1]), (signs[:, 1:], signs[:, :-1])):
        assert abs((a * b).mean()) < 5 * 0.75 * 0.25 / np.sqrt(a.size)


def test_two_dense_layers_by_numpy():
    """The masks are read from one model. The outputs with them are NumPy's."""
    keras.utils.set_random_seed(1)
    a, b, c = kl.Dense(12, "tanh"), kl.Dropout(0.5), kl.Dense(3)
    model, hidden = stack((40,), a, b, c), keras.Sequential([a, b])
    hidden.build((None, 40))
    h = np.tanh(X @ a.get_weights()[0] + a.get_weights()[1])
    for seed in range(3):
        masks = sample_outputs(MCDropout(hidden), X, 20, seed=seed) / h
        np.testing.assert_allclose(np.sort(np.unique(masks.round(4))), [0, 2])
        right = (masks * h) @ c.get_weights()[0] + c.get_weights()[1]
        np.testing.assert_allclose(sample_outputs(MCDropout(model), X, 20, seed=seed), right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_gaussian_and_alpha_dropout_have_the_moments_of_their_papers(rate):
    ones = np.ones_like(X)
    gaussian = sample_outputs(MCDropout(linear(kl.GaussianDropout(rate))), ones, 150)
    n, variance = 150 * 40, rate / (1 - rate)
    assert (gaussian == gaussian[:, :1]).all()
    assert abs(gaussian[:, 0].mean() - 1) < 5 * np.sqrt(variance / n)
    assert abs(gaussian[:, 0].var() - variance) < 5 * variance * np.sqrt(2 / n)
    # Alpha dropout keeps mean 0 and variance 1 of standard normal inputs (Klambauer et al. 2017). Each of the 2,000
    # features has a mask of its own.
    x = np.random.default_rng(1).standard_normal((1, 2000)).astype(np.float32)
    alpha = sample_outputs(MCDropout(stack((2000,), kl.AlphaDropout(rate))), x, 10)
    assert abs(alpha.mean()) < 5 / np.sqrt(2000) and abs(alpha.var() - 1) < 0.15
    assert not np.allclose(alpha[0], alpha[1])


def test_spatial_dropout_drops_whole_channels():
    found = sample_outputs(MCDropout(stack((5, 5, 8), kl.SpatialDropout2D(0.5))), np.ones((3, 5, 5, 8)), 100)
    assert (found == found[:, :1, :1, :1]).all()
    assert set(np.unique(found)) == {0, 2} and abs(found[:, 0, 0, 0].mean() - 1) < 5 / np.sqrt(800)


def test_other_layers_act_as_in_prediction_and_the_model_is_left_as_it_was():
    batch_norm, dropout = kl.BatchNormalization(), kl.Dropout(0.5)
    model = stack((40,), batch_norm, kl.Dense(4), dropout)
    batch_norm.set_weights([np.full(40, v, np.float32) for v in (2, 1, 3, 4)])
    before, generator = [w.copy() for w in model.get_weights()], dropout._random_generator
    right = (2 * (X - 3) / np.sqrt(4 + 1e-3) + 1) @ model.layers[1].get_weights()[0]
    found = sample_outputs(MCDropout(model), X, 30)
    np.testing.assert_allclose(found, (found != 0) * 2 * right, rtol=1e-3, atol=1e-4)
    with pytest.raises(KeyError), MCDropout(model).fixed(0, 0):
        raise KeyError
    assert "call" not in vars(dropout) and dropout._random_generator is generator
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(sample_outputs(model, X)[0], right, rtol=1e-3, atol=1e-4)


def test_draws_do_not_depend_on_blocks_or_on_what_was_compiled_before():
    model = stack((40,), kl.Dense(8, "relu"), kl.Dropout(0.3), kl.Dense(8), kl.Dropout(0.3), kl.Dense(3))
    posterior = MCDropout(model)
    assert isinstance(posterior, Posterior)
    once = predict(posterior, X, 6, seed=2)
    with posterior.fixed(2, 0):
        networks = compile_networks(model, X, True)
    np.testing.assert_allclose(predict(MCDropout(model), X, 6, seed=2, budget_mb=1e-3), once, rtol=1e-4, atol=1e-6)
    with posterior.fixed(2, 0):
        assert compile_networks(model, X, True) is networks
    assert [function.experimental_get_tracing_count() for function in networks.traced] == [1, 1]
    assert np.abs(predict(posterior, X, 6, seed=1) - once).max() > 1e-3
    with posterior.fixed(2, 4):
        np.testing.assert_allclose(keras.activations.softmax(model(X)), once[4], rtol=1e-4, atol=1e-6)


def test_masks_of_two_layers_differ():
    first, second = kl.Dropout(0.5), kl.Dropout(0.5)
    x = keras.Input((40,))
    model = keras.Model(x, kl.Concatenate()([first(x), second(x)]))
    found = sample_outputs(MCDropout(model), np.ones((1, 40)), 50)[:, 0] - 1
    assert abs((found[:, :40] * found[:, 40:]).mean()) < 5 / np.sqrt(50 * 40)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="has no dropout layer with a rate above 0"):
        MCDropout(linear(kl.Dropout(0.0)))
    with pytest.raises(ValueError, match=r"the layers \['gru.*'\] drop inside of their own call"):
        MCDropout(stack((4, 3), kl.GRU(2, dropout=0.1), kl.Dropout(0.5)))
