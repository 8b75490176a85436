"""Scores of a predictive distribution: accuracy, calibration, uncertainty and its parts. NumPy in, numbers out.

Two shapes occur everywhere. `p` [N, C] holds one predictive distribution for each of N examples over C classes, which
for a Bayesian neural network is the mean over its draws. `draws` [S, N, C] holds S Monte Carlo draws of it. Labels `y`
[N] are integers. Entropies and losses are in nats. All arithmetic has the precision of the input or better. Every
function raises ValueError, with the reason, for input that cannot be what it is said to be.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

# The smallest normal float32. Where a float32 softmax underflows to 0, the example must cost much (87.3 nats), but it
# must not make the mean over all examples infinite.
SMALLEST_PROBABILITY = np.finfo(np.float32).tiny


def accuracy(p: ArrayLike, y: ArrayLike) -> float:
    """Return the fraction of examples whose most probable class is the label. p [N, C], y [N]."""
    p, y = _checked(p, y)
    return float(np.mean(p.argmax(axis=1) == y))


def nll(p: ArrayLike, y: ArrayLike) -> float:
    """Return the mean negative log-likelihood of the labels, in nats per example. p [N, C], y [N].

    This is the logarithmic score of Gneiting and Raftery (2007) with the sign of a loss. A probability below 1.2e-38
    counts as 1.2e-38, so one example costs at most 87.3 nats.
    """
    p, y = _checked(p, y)
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], SMALLEST_PROBABILITY)).mean(dtype=np.float64))


def brier(p: ArrayLike, y: ArrayLike) -> float:
    """Return the Brier score, the mean over examples of sum_c (p_c - [y = c])^2, from 0 to 2. p [N, C], y [N].

    Brier (1950), eq. 2, which sums over all classes. The halved form for two classes is another convention.
    """
    p, y = _checked(p, y)
    error = p - np.eye(p.shape[1])[y]
    return float(np.square(error).sum(axis=1).mean())


def calibration_curve(p: ArrayLike, y: ArrayLike, bins: int = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare confidence and accuracy in bins of equal width of the largest probability (Guo et al. 2017, section 2).

    Args:
      p: [N, C].
      y: [N].
      bins: The number of bins. Bin m holds confidences in ((m-1)/bins, m/bins].

    Returns:
      (confidence, accuracy, count), each [bins]: the mean largest probability, the accuracy and the number of examples
      of each bin. An empty bin has NaN, NaN and 0.
    """
    p, y = _checked(p, y)
    confidence = p.max(axis=1).astype(np.float64)
    correct = p.argmax(axis=1) == y
    index = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    count = np.bincount(index, minlength=bins)
    total = np.where(count > 0, count, np.nan)
    return (
        np.bincount(index, weights=confidence, minlength=bins) / total,
        np.bincount(index, weights=correct, minlength=bins) / total,
        count,
    )


def ece(p: ArrayLike, y: ArrayLike, bins: int = 15) -> float:
    """Return the expected calibration error, sum_m (n_m / N) |accuracy_m - confidence_m|, from 0 to 1. p [N, C], y [N].

    Guo et al. (2017), eq. 3. The estimate is biased upwards if bins hold few examples, by about sqrt(bins / N) even for
    a perfectly calibrated predictor. Compare it only at equal N and equal `bins`.
    """
    confidence, correct, count = calibration_curve(p, y, bins)
    return float(np.nansum(count * np.abs(correct - confidence)) / count.sum())


def summary(p: ArrayLike, y: ArrayLike, bins: int = 15) -> dict[str, float]:
    """Return accuracy, nll, brier and ece of mean probabilities [N, C], or of draws [S, N, C], which are averaged."""
    p = np.asarray(p)
    if p.ndim == 3:
        p = p.mean(axis=0)
    return {"accuracy": accuracy(p, y), "nll": nll(p, y), "brier": brier(p, y), "ece": ece(p, y, bins)}


def predictive_entropy(draws: ArrayLike) -> np.ndarray:
    """Return the total uncertainty, which is the entropy of the mean over draws, H[E_w p]. [S, N, C] -> [N], nats."""
    return _entropy(_distributions(draws, 3).mean(axis=0))


def expected_entropy(draws: ArrayLike) -> np.ndarray:
    """Return the aleatoric uncertainty, which is the mean entropy of the draws, E_w H[p]. [S, N, C] -> [N], nats."""
    return _entropy(_distributions(draws, 3)).mean(axis=0)


def mutual_information(draws: ArrayLike) -> np.ndarray:
    """Return the mutual information of label and weights, H[E_w p] - E_w H[p]. [S, N, C] -> [N], nats.

    It is the epistemic part of the predictive entropy, and zero where all draws agree. Houlsby et al. (2011), section 2
    ("BALD"); Depeweg et al. (2018). It cannot be negative. Where rounding makes it so, the result is 0.
    """
    return np.maximum(predictive_entropy(draws) - expected_entropy(draws), 0)


def auroc(in_scores: ArrayLike, out_scores: ArrayLike) -> float:
    """Return the probability that a random out-of-distribution example scores above a random in-distribution one.

    Ties count half, and guessing gives 0.5. This is the area under the ROC curve (Fawcett 2006, section 7).

    Args:
      in_scores: [M], a score that grows with uncertainty: entropy, mutual information or 1 - max p.
      out_scores: [N], the same score of the out-of-distribution examples.
    """
    inside, outside = (_finite(s, "scores").ravel() for s in (in_scores, out_scores))
    if not len(inside) or not len(outside):
        raise ValueError("auroc needs at least one score of each kind")
    inside = np.sort(inside)
    below = np.searchsorted(inside, outside, "left")
    not_above = np.searchsorted(inside, outside, "right")
    return float((below + not_above).sum() / (2 * len(inside) * len(outside)))


def accuracy_vs_retained(score: ArrayLike, correct: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the accuracy on the examples that are kept if the least certain ones are handed to a human.

    Examples with the same score are kept or handed over together, because no rule could tell them apart.

    Args:
      score: [N], higher where the model is more certain (for an entropy, pass its negative), or probabilities [N, C],
        of which the largest one is taken.
      correct: [N] of bool, whether the prediction is right.

    Returns:
      (retained, accuracy), each [T]: the share that is kept, ascending to 1, and the accuracy on it, at each of the T
      distinct scores.
    """
    score = _distributions(score, 2).max(axis=1) if np.ndim(score) == 2 else _finite(score, "score")
    correct = np.asarray(correct, dtype=bool)
    if score.ndim != 1 or score.shape != correct.shape or not len(score):
        raise ValueError(f"expected score [N] and correct [N], N > 0; found {score.shape}, {correct.shape}")
    order = np.argsort(-score, kind="stable")
    kept = np.arange(1, len(order) + 1)
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    return kept[last_of_tie] / len(order), (np.cumsum(correct[order]) / kept)[last_of_tie]


def coverage(lower: ArrayLike, upper: ArrayLike, y: ArrayLike) -> float:
    """Return the fraction of values inside their interval [lower, upper], ends included. Three arrays of one shape."""
    lower, upper, y = (_finite(a, name) for a, name in ((lower, "lower"), (upper, "upper"), (y, "y")))
    if not lower.shape == upper.shape == y.shape or not y.size:
        shapes = lower.shape, upper.shape, y.shape
        raise ValueError(f"lower, upper and y must have one shape and not be empty; found {shapes}")
    if np.any(lower > upper):
        raise ValueError(f"lower exceeds upper in {np.sum(lower > upper)} intervals: were they swapped?")
    return float(np.mean((lower <= y) & (y <= upper)))


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
    means, variances = _finite(means, "means"), _finite(variances, "variances")
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
    draws = _finite(draws, "draws")
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


def _checked(p: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities [N, C] and integer labels [N] that fit each other."""
    p, y = _distributions(p, 2), np.asarray(y)
    if y.shape != p.shape[:1]:
        raise ValueError(f"expected labels {p.shape[:1]} for probabilities {p.shape}; found {y.shape}")
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels must be integers (not one-hot, not floats); found {y.dtype}")
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"labels must lie in 0..{p.shape[1] - 1}; found {y.min()}..{y.max()}")
    return p, y


def _distributions(p: ArrayLike, ndim: int) -> np.ndarray:
    """Return an array with `ndim` axes whose last axis sums to 1."""
    p = _finite(p, "probabilities")
    if p.ndim != ndim or not p.size:
        expected = "[N, C]" if ndim == 2 else "[S, N, C]"
        raise ValueError(f"expected probabilities {expected}; found shape {p.shape}")
    total = p.sum(axis=-1, dtype=np.float64)
    if p.min() < 0 or np.abs(total - 1).max() > 1e-3:
        raise ValueError(
            f"probabilities must be >= 0 and sum to 1; found a least value of {p.min():.3g} and sums from "
            f"{total.min():.3g} to {total.max():.3g}: were logits passed without a softmax?"
        )
    return p


def _finite(a: ArrayLike, name: str) -> np.ndarray:
    a = np.asarray(a)
    a = a if np.issubdtype(a.dtype, np.floating) else a.astype(np.float64)
    if not np.isfinite(a).all():
        raise ValueError(f"{name}: {np.sum(~np.isfinite(a))} of {a.size} values are NaN or infinite")
    return a
