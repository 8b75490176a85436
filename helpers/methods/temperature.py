"""Temperature scaling: one number, fitted on held-out data, that makes probabilities less or more confident."""

from helpers.metrics.checks import distributions

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax

SMALLEST, LARGEST = 0.01, 100.0  # temperatures


def log_probabilities(p: ArrayLike) -> np.ndarray:
    """Return the logarithm of probabilities [N, C], or of the mean of draws [S, N, C], as logits [N, C].

    The softmax of these logits is p, and at temperature T it is p^(1/T), normalised. So one temperature serves one
    network and a mean over draws (Ashukha et al. 2020, arXiv:2002.06470). A zero counts as 1.2e-38.

    Raises:
      ValueError: these are no probabilities, such as logits.
    """
    p = distributions(p, 3 if np.ndim(p) == 3 else 2)
    p = p.mean(axis=0, dtype=np.float64) if p.ndim == 3 else p
    return np.log(np.maximum(p, np.finfo(np.float32).tiny))


def best_temperature(logits: ArrayLike, y: ArrayLike) -> float:
    """Return the temperature T at which softmax(logits / T) has the least negative log-likelihood (NLL).

    This is temperature scaling, section 4.2 of Guo et al. (2017, arXiv:1706.04599). The NLL is convex in 1/T, and its
    derivative is the mean of E_p[logit] - logit of the label. We solve for its only zero.

    Args:
      logits: [N, C] of held-out data, on which the network was not trained; `log_probabilities` gives them for draws.
      y: integer labels [N].

    Raises:
      ValueError: shapes or labels do not fit, a logit is not finite, or no T from 0.01 to 100 has the least NLL. The
        last is so if all predictions are right, or if they are no better than equal probabilities.
    """
    logits, y = np.asarray(logits, np.float64), np.asarray(y)
    if logits.ndim != 2 or y.shape != logits.shape[:1] or not len(y) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"expected logits [N, C] and integer labels [N], found {logits.shape} and {y.shape} {y.dtype}")
    _refuse_probabilities(logits)
    if y.min() < 0 or y.max() >= logits.shape[1] or not np.isfinite(logits).all():
        raise ValueError("expected finite logits [N, C] and labels from 0 to C - 1. For draws, call log_probabilities.")

    def slope(log_temperature: float) -> float:
        p = softmax(logits * np.exp(-log_temperature), axis=1)
        return float(np.mean((p * logits).sum(axis=1) - logits[np.arange(len(y)), y]))

    limits = np.log(SMALLEST), np.log(LARGEST)
    if slope(limits[0]) <= 0:
        raise ValueError(
            f"the NLL falls down to T = {SMALLEST}, because (nearly) all {len(y)} predictions are right. "
            "Fit the temperature on more held-out examples."
        )
    if slope(limits[1]) >= 0:
        raise ValueError(
            f"the NLL falls up to T = {LARGEST:.0f}, because the logits say nothing about these labels. "
            "Check that the labels belong to these examples."
        )
    return float(np.exp(brentq(slope, *limits, xtol=1e-10)))


def _refuse_probabilities(logits: np.ndarray) -> None:
    if logits.size and logits.min() >= 0 and np.allclose(logits.sum(axis=-1), 1, atol=1e-3):
        raise ValueError("expected logits, found probabilities. Call log_probabilities first.")


def rescale(logits: ArrayLike, temperature: float) -> np.ndarray:
    """Return the probabilities softmax(logits / temperature), float64 [N, C]. The most probable class stays.

    Raises:
      ValueError: the temperature is not positive, or these are probabilities in place of logits.
    """
    if not temperature > 0:
        raise ValueError(f"expected a temperature > 0, found {temperature}")
    _refuse_probabilities(np.asarray(logits))
    return np.exp(log_softmax(np.asarray(logits, np.float64) / temperature, axis=-1))
