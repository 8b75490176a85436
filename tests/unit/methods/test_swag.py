"""SWAG's moments and draws against NumPy on the snapshots."""

from helpers.fit import fit
from helpers.inference import Posterior, sample_outputs
from helpers.methods.swag import SWAG
from helpers.runs import Run

import numpy as np
import pytest
import tensorflow_probability as tfp
import tf_keras as keras

from tests.support.networks import stack

kl = keras.layers
DRAWS = 400


def collected(seed, count, rank, size=6):
    """SWAG after `count` snapshots of correlated weights, and the snapshots [count, P]."""
    rng = np.random.default_rng(seed)
    model = stack((size,), kl.Dense(1, use_bias=False))
    snapshots = 3 + (rng.normal(size=(count, size)) @ rng.normal(size=(size, size))).astype(np.float32)
    swag = SWAG(model, rank)
    for step, weights in enumerate(snapshots):
        model.layers[0].set_weights([weights[:, None]])
        swag.collect(step, model)
    return swag, snapshots.astype(np.float64)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rank", [0, 2, 5, 50])
def test_moments_are_those_of_the_snapshots(seed, rank):
    swag, w = collected(seed, 12, rank)
    mean, variances, columns = swag.moments()
    np.testing.assert_allclose(mean, w.mean(0), rtol=1e-10)
    np.testing.assert_allclose(variances, (w**2).mean(0) - w.mean(0) ** 2, rtol=1e-8)
    deviations = [w[i] - w[: i + 1].mean(0) for i in range(1, 12)][-rank:] if rank else np.zeros((0, 6))
    np.testing.assert_allclose(columns, deviations, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 4])
def test_draws_have_the_covariance_of_the_paper(rank):
    swag, _ = collected(1, 9, rank)
    mean, variances, columns = swag.moments()
    right = np.diag(variances) if not rank else np.diag(variances) / 2 + columns.T @ columns / (2 * (rank - 1))
    assert isinstance(swag, Posterior)
    draws = np.zeros((DRAWS, 6))
    for number in range(DRAWS):
        with swag.fixed(4, number) as model:
            draws[number] = model.get_weights()[0][:, 0]
    np.testing.assert_allclose(sample_outputs(swag, np.eye(6), 3, seed=4)[:, :, 0], draws[:3], rtol=1e-5)
    d = np.diag(right)
    assert np.abs((draws.mean(0) - mean) / np.sqrt(d / DRAWS)).max() < 5
    error = np.sqrt((np.outer(d, d) + right**2) / DRAWS)  # of a Gaussian's covariance (Wishart)
    assert np.abs((np.cov(draws.T) - right) / error).max() < 5


def test_fit_collects_and_the_model_is_left_as_it_was():
    model, x = stack((2,), kl.Dense(2)), np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    swag, seen = SWAG(model, 3, start=2), []

    def callback(step, model, means):
        seen.append((step, model.get_weights()[0].ravel()))
        swag.collect(step, model, means)

    run = Run(callback=callback, callback_every=1, progress=False)
    fit(model, x, np.arange(32) % 2, batch_size=8, epochs=2, optimizer=keras.optimizers.legacy.SGD(0.1), run=run)
    assert [step for step, _ in seen] == list(range(9)) and swag.snapshots == 7
    np.testing.assert_allclose(swag.moments()[0][:4], np.mean([w for _, w in seen[2:]], 0), rtol=1e-5)
    before = [weight.copy() for weight in model.get_weights()]
    with pytest.raises(KeyError), swag.fixed(0, 0):
        assert np.abs(model.get_weights()[0] - before[0]).max() > 0
        raise KeyError
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_swag_cannot_draw_is_refused():
    model = stack((2,), kl.Dense(2), kl.BatchNormalization(name="norm"))
    with pytest.raises(ValueError, match=r"moving averages of \['norm'\]"):
        SWAG(model)
    model.layers[-1].trainable = False
    assert SWAG(model).snapshots == 0
    with pytest.raises(ValueError, match="has Bayesian layers"):
        SWAG(stack((2,), tfp.layers.DenseFlipout(2)))
    with pytest.raises(ValueError, match="at least 2, found 1"):
        SWAG(model, 1)
    swag = SWAG(model)
    with pytest.raises(ValueError, match="has 0 snapshots and needs at least 3"):
        sample_outputs(swag, np.zeros((1, 2)))
    with pytest.raises(ValueError, match="that SWAG was made for"):
        swag.collect(0, stack((2,), kl.Dense(2)))
    model.layers[0].kernel.assign(np.full((2, 2), np.nan))
    with pytest.raises(FloatingPointError, match="at step 7"):
        swag.collect(7, model)
