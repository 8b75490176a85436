"""Scores of predictions: accuracy, proper scores, detection, and coverage."""

from helpers.metrics.calibration import ece
from helpers.metrics.checks import checked, distributions, finite

import numpy as np
from numpy.typing import ArrayLike

# The smallest normal float32. Where a float32 softmax underflows to 0, the example must cost much (87.3 nats), but it
# must not make the mean over all examples infinite.
SMALLEST_PROBABILITY = np.finfo(np.float32).tiny


def accuracy(p: ArrayLike, y: ArrayLike) -> float:
    """Return the fraction of examples whose most probable class is the label. p [N, C], y [N]."""
    p, y = checked(p, y)
    return float(np.mean(p.argmax(axis=1) == y))


def nll(p: ArrayLike, y: ArrayLike) -> float:
    """Return the mean negative log-likelihood of the labels, in nats per example. p [N, C], y [N].

    This is the logarithmic score of Gneiting and Raftery (2007) with the sign of a loss. A probability below 1.2e-38
    counts as 1.2e-38, so one example costs at most 87.3 nats.
    """
    p, y = checked(p, y)
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], SMALLEST_PROBABILITY)).mean(dtype=np.float64))


def brier(p: ArrayLike, y: ArrayLike) -> float:
    """Return the Brier score, the mean over examples of sum_c (p_c - [y = c])^2, from 0 to 2. p [N, C], y [N].

    Brier (1950), eq. 2, which sums over all classes. The halved form for two classes is another convention.
    """
    p, y = checked(p, y)
    error = p - np.eye(p.shape[1])[y]
    return float(np.square(error).sum(axis=1).mean())


def summary(p: ArrayLike, y: ArrayLike, bins: int = 15) -> dict[str, float]:
    """Return accuracy, nll, brier and ece of mean probabilities [N, C], or of draws [S, N, C], which are averaged."""
    p = np.asarray(p)
    if p.ndim == 3:
        p = p.mean(axis=0)
    return {"accuracy": accuracy(p, y), "nll": nll(p, y), "brier": brier(p, y), "ece": ece(p, y, bins)}


def auroc(in_scores: ArrayLike, out_scores: ArrayLike) -> float:
    """Return the probability that a random out-of-distribution example scores above a random in-distribution one.

    Ties count half, and guessing gives 0.5. This is the area under the ROC curve (Fawcett 2006, section 7).

    Args:
      in_scores: [M], a score that grows with uncertainty: entropy, mutual information or 1 - max p.
      out_scores: [N], the same score of the out-of-distribution examples.
    """
    inside, outside = (finite(s, "scores").ravel() for s in (in_scores, out_scores))
    if not len(inside) or not len(outside):
        raise ValueError("auroc needs at least one score of each kind")
    inside = np.sort(inside)
    below = np.searchsorted(inside, outside, "left")
    not_above = np.searchsorted(inside, outside, "right")
    return float((below + not_above).sum() / (2 * len(inside) * len(outside)))


def false_positive_rate(in_scores: ArrayLike, out_scores: ArrayLike, detection: float = 0.95) -> float:
    """Return the fraction of in-distribution examples that are flagged where `detection` of the others are.

    The threshold is the largest score at which at least this fraction of the out-of-distribution examples reaches it.
    These count as the positive class, as in Hendrycks, Mazeika and Dietterich (2019, arXiv:1812.04606, section 4). Some
    papers exchange the two classes, which gives another number.

    Args:
      in_scores, out_scores: [M] and [N], as `auroc` takes them.
      detection: from above 0 to 1.
    """
    inside, outside = (finite(s, "scores").ravel() for s in (in_scores, out_scores))
    if not len(inside) or not len(outside) or not 0 < detection <= 1:
        raise ValueError(f"expected scores of each kind and 0 < detection <= 1, found detection={detection}")
    # Rounding must not make 0.95 * 20 examples 20 of them.
    flagged = int(np.ceil(detection * len(outside) - 1e-9))
    return float(np.mean(inside >= np.sort(outside)[len(outside) - flagged]))


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
    score = distributions(score, 2).max(axis=1) if np.ndim(score) == 2 else finite(score, "score")
    correct = np.asarray(correct, dtype=bool)
    if score.ndim != 1 or score.shape != correct.shape or not len(score):
        raise ValueError(f"expected score [N] and correct [N], N > 0; found {score.shape}, {correct.shape}")
    order = np.argsort(-score, kind="stable")
    kept = np.arange(1, len(order) + 1)
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    return kept[last_of_tie] / len(order), (np.cumsum(correct[order]) / kept)[last_of_tie]


def coverage(lower: ArrayLike, upper: ArrayLike, y: ArrayLike) -> float:
    """Return the fraction of values inside their interval [lower, upper], ends included. Three arrays of one shape."""
    lower, upper, y = (finite(a, name) for a, name in ((lower, "lower"), (upper, "upper"), (y, "y")))
    if not lower.shape == upper.shape == y.shape or not y.size:
        shapes = lower.shape, upper.shape, y.shape
        raise ValueError(f"lower, upper and y must have one shape and not be empty; found {shapes}")
    if np.any(lower > upper):
        raise ValueError(f"lower exceeds upper in {np.sum(lower > upper)} intervals: were they swapped?")
    return float(np.mean((lower <= y) & (y <= upper)))
