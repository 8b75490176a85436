"""The uncertainty of predictions, its parts, and the Monte Carlo error of means over draws."""

from collections.abc import Sequence

from helpers.metrics.checks import distributions, finite

import numpy as np
from numpy.typing import ArrayLike


def predictive_entropy(draws: ArrayLike) -> np.ndarray:
    """Return the total uncertainty, which is the entropy of the mean over draws, H[E_w p]. [S, N, C] -> [N], nats."""
    return _entropy(distributions(draws, 3).mean(axis=0))


def expected_entropy(draws: ArrayLike) -> np.ndarray:
    """Return the aleatoric uncertainty, which is the mean entropy of the draws, E_w H[p]. [S, N, C] -> [N], nats."""
    return _entropy(distributions(draws, 3)).mean(axis=0)


def mutual_information(draws: ArrayLike) -> np.ndarray:
    """Return the mutual information of label and weights, H[E_w p] - E_w H[p]. [S, N, C] -> [N], nats.

    It is the epistemic part of the predictive entropy, and zero where all draws agree. Houlsby et al. (2011), section 2
    ("BALD"); Depeweg et al. (2018). It cannot be negative. Where rounding makes it so, the result is 0.
    """
    return np.maximum(predictive_entropy(draws) - expected_entropy(draws), 0)


def total_variance(means: ArrayLike, variances: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the moments of an equal mixture of S Gaussians, one for each draw of the weights.

    The law of total variance, used as in Depeweg et al. (2018): aleatoric + epistemic is the predictive variance.

    Args:
      means: [S, ...], in units of y.
      variances: [S, ...], squared standard deviations, in units of y^2.

    Returns:
      (mean, aleatoric, epistemic), each [...]: the predictive mean, the mean of the variances and the variance of the
      means.
    """
    means, variances = finite(means, "means"), finite(variances, "variances")
    if means.shape != variances.shape or means.ndim < 1:
        shapes = means.shape, variances.shape
        raise ValueError(f"means and variances must have one shape [S, ...]; found {shapes}")
    if np.any(variances < 0):
        raise ValueError("variances must not be negative: were log-variances passed?")
    return means.mean(axis=0), variances.mean(axis=0), means.var(axis=0)


def monte_carlo_error(draws: ArrayLike, sizes: Sequence[int]) -> np.ndarray:
    """Return the standard error of a mean over s draws for each s, as root mean square over all other axes.

    The draws are cut into T // s disjoint blocks, and the spread of the means of the blocks is the error. This does not
    assume that the error falls as 1/sqrt(s).

    Args:
      draws: [T, ...], with T at least twice the largest s.
      sizes: The values of s.

    Returns:
      float64 [len(sizes)], in units of the draws.
    """
    draws = finite(draws, "draws")
    if min(sizes) < 1 or 2 * max(sizes) > len(draws):
        raise ValueError(f"sizes must lie in 1..{len(draws) // 2}, half the draws; found {list(sizes)}")
    errors = []
    for s in sizes:
        blocks = draws[: len(draws) // s * s].reshape(-1, s, *draws.shape[1:]).mean(axis=1, dtype=np.float64)
        errors.append(np.sqrt(blocks.var(axis=0, ddof=1).mean()))
    return np.array(errors)


def _entropy(p: np.ndarray) -> np.ndarray:
    """Return -sum_c p_c log p_c over the last axis, with 0 log 0 = 0."""
    terms = np.log(p, out=np.zeros_like(p), where=p > 0)
    terms *= p
    return 0 - terms.sum(axis=-1)  # unlike -0.0, 0 - 0.0 has no sign to be printed
