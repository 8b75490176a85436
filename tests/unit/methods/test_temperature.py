"""Temperature scaling against a search over a grid, and where the right temperature is known."""

from helpers import metrics
from helpers.methods.temperature import best_temperature, log_probabilities, rescale

import numpy as np
import pytest


def drawn(seed, n=20_000, classes=5):
    """Logits of a calibrated predictor, and labels drawn from their softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, classes))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return logits, (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1), p


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_of_logits_that_were_multiplied_is_found(true, seed):
    logits, y, p = drawn(seed)
    # The Fisher information of b = 1/T at b = 1 is the mean variance of the logits under p, divided by true^2.
    information = ((p * logits**2).sum(1) - (p * logits).sum(1) ** 2).mean()
    found = best_temperature(logits * true, y)
    assert abs(true / found - 1) < 4 / np.sqrt(information * len(y))


@pytest.mark.parametrize("seed", range(3))
def test_no_temperature_of_a_grid_is_better(seed):
    logits, y, _ = drawn(seed, 300)
    nll = {t: metrics.nll(rescale(1.7 * logits, t), y) for t in np.geomspace(0.05, 20, 4001)}
    grid = min(nll, key=nll.get)
    found = best_temperature(1.7 * logits, y)
    assert abs(np.log(found / grid)) < np.log(400) / 4000
    assert metrics.nll(rescale(1.7 * logits, found), y) <= nll[grid]


def test_draws_have_the_temperature_of_their_mean():
    rng = np.random.default_rng(0)
    draws = rng.dirichlet(np.full(4, 0.3), (7, 50)).astype(np.float32)
    y = draws.mean(0).argmax(1)
    y[::3] = 0
    t = best_temperature(log_probabilities(draws), y)
    power = draws.mean(0, dtype=np.float64) ** (1 / t)
    found = rescale(log_probabilities(draws), t)
    np.testing.assert_allclose(found, power / power.sum(1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(rescale(log_probabilities(draws[0]), 1), draws[0], rtol=1e-4, atol=1e-6)
    assert best_temperature(log_probabilities(draws.mean(0)), y) == pytest.approx(t, rel=1e-5)
    assert (found.argmax(1) == draws.mean(0).argmax(1)).all()
    assert np.isfinite(log_probabilities([[0.0, 1.0]])).all()


@pytest.mark.parametrize(
    "logits, y, message",
    [
        ([[2.0, 0.0], [0.0, 1.0]], [0, 1], "all 2 predictions are right"),
        ([[2.0, 0.0], [0.0, 1.0]], [1, 0], "say nothing about these labels"),
        ([[2.0, 0.0]], [2], "labels from 0 to C - 1"),
        ([[2.0, -np.inf]], [0], "finite logits"),
        ([2.0, 0.0], [0, 1], r"expected logits \[N, C\]"),
        ([[2.0, 0.0]], [0.0], "integer labels"),
    ],
)
def test_what_has_no_best_temperature_is_refused(logits, y, message):
    with pytest.raises(ValueError, match=message):
        best_temperature(np.array(logits), np.array(y))


def test_a_temperature_is_positive():
    with pytest.raises(ValueError, match="temperature > 0, found 0"):
        rescale([[1.0, 2.0]], 0)
