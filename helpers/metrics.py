"""Scores of a predictive distribution: how good, how calibrated, how sure, and why not.

Two shapes run through the module. `p` [N, C] holds one predictive distribution per example, for a
Bayesian network the mean over its draws; `draws` [S, N, C] holds S Monte-Carlo draws of it. Entropies,
losses and mutual information are in nats. All arithmetic is numpy's, in the precision of the input or
better. Input that cannot be what it claims to be raises ValueError and says why.
"""

import numpy as np
from scipy.special import entr

# The smallest normal float32: a float32 softmax underflows to 0, and one such example must cost much
# (87.3 nats) without turning the mean over all examples into infinity.
SMALLEST_PROBABILITY = np.finfo(np.float32).tiny


def accuracy(p, y):
    """Fraction of examples whose most probable class is the label. p [N, C], y [N]."""
    p, y = _checked(p, y)
    return float(np.mean(p.argmax(axis=1) == y))


def nll(p, y):
    """Mean negative log-likelihood of the labels, in nats per example. p [N, C], y [N].

    A probability below 1.2e-38 counts as 1.2e-38, so one example costs at most 87.3 nats.
    The logarithmic score of Gneiting and Raftery (2007), with the sign of a loss.
    """
    p, y = _checked(p, y)
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], SMALLEST_PROBABILITY)).mean(dtype=np.float64))


def brier(p, y):
    """Brier score: mean over examples of sum_c (p_c - [y = c])^2, from 0 to 2. p [N, C], y [N].

    Brier (1950), eq. 2: the sum over all classes, not the halved two-class form.
    """
    p, y = _checked(p, y)
    error = p - np.eye(p.shape[1])[y]
    return float(np.square(error).sum(axis=1).mean())


def calibration_curve(p, y, bins=15):
    """Confidence and accuracy in equal-width bins of the largest probability.

    p [N, C], y [N]. Returns (confidence, accuracy, count), each [bins]: the mean largest probability, the
    accuracy and the number of examples of bin m, which holds confidences in ((m-1)/bins, m/bins].
    An empty bin has NaN, NaN, 0. Guo et al. (2017), section 2.
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


def ece(p, y, bins=15):
    """Expected calibration error, 0 to 1: sum_m (n_m / N) |accuracy_m - confidence_m|. p [N, C], y [N].

    Guo et al. (2017), eq. 3. It is biased upwards when bins hold few examples: of the order of
    sqrt(bins / N) even for a perfectly calibrated predictor, so compare it at equal N and bins only.
    """
    confidence, correct, count = calibration_curve(p, y, bins)
    return float(np.nansum(count * np.abs(correct - confidence)) / count.sum())


def summary(p, y, bins=15):
    """dict(accuracy, nll, brier, ece) of mean probabilities [N, C] or draws [S, N, C], which are averaged."""
    p = np.asarray(p)
    if p.ndim == 3:
        p = p.mean(axis=0)
    return {"accuracy": accuracy(p, y), "nll": nll(p, y), "brier": brier(p, y), "ece": ece(p, y, bins)}


def predictive_entropy(draws):
    """Entropy of the mean over draws, H[E_w p], in nats: the total uncertainty. [S, N, C] -> [N]."""
    return entr(_distributions(draws, 3).mean(axis=0)).sum(axis=-1)


def expected_entropy(draws):
    """Mean over draws of the entropy, E_w H[p], in nats: the aleatoric part. [S, N, C] -> [N]."""
    return entr(_distributions(draws, 3)).sum(axis=-1).mean(axis=0)


def mutual_information(draws):
    """Mutual information of label and weights, H[E_w p] - E_w H[p], in nats. [S, N, C] -> [N].

    The epistemic part of the predictive entropy: zero where all draws agree. Houlsby et al. (2011),
    section 2 ("BALD"); Depeweg et al. (2018). It is never negative; what rounding makes so is set to 0.
    """
    return np.maximum(predictive_entropy(draws) - expected_entropy(draws), 0)


def auroc(in_scores, out_scores):
    """Probability that a random out-of-distribution example scores above a random in-distribution one.

    Both 1-D, any lengths; the score must grow with uncertainty (entropy, mutual information,
    1 - max p). Ties count half. 0.5 is guessing. Fawcett (2006).
    """
    from sklearn.metrics import roc_auc_score  # here: its import would cost every rank half a second

    scores = [_finite(s, "scores").ravel() for s in (in_scores, out_scores)]
    if not all(map(len, scores)):
        raise ValueError("auroc needs at least one score of each kind")
    is_out = np.repeat([0, 1], [len(scores[0]), len(scores[1])])
    return float(roc_auc_score(is_out, np.concatenate(scores)))


def accuracy_vs_retained(score, correct):
    """Accuracy on the examples that are kept when the least sure ones are handed to a human.

    score: [N], higher where the model is surer (for an entropy pass its negative), or probabilities
    [N, C], of which the largest is taken. correct: [N] of bool. Returns (retained, accuracy), each [T]:
    the share kept, ascending to 1, and the accuracy on it, at each of the T distinct scores. Examples
    with the same score are kept or handed over together, as no rule could tell them apart.
    """
    score = _distributions(score, 2).max(axis=1) if np.ndim(score) == 2 else _finite(score, "score")
    correct = np.asarray(correct, dtype=bool)
    if score.ndim != 1 or score.shape != correct.shape or not len(score):
        raise ValueError(f"expected score [N] and correct [N], N > 0; found {score.shape}, {correct.shape}")
    order = np.argsort(-score, kind="stable")
    kept = np.arange(1, len(order) + 1)
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    return kept[last_of_tie] / len(order), (np.cumsum(correct[order]) / kept)[last_of_tie]


def coverage(lower, upper, y):
    """Fraction of values inside their interval [lower, upper], ends included. Three arrays of one shape."""
    lower, upper, y = (_finite(a, name) for a, name in ((lower, "lower"), (upper, "upper"), (y, "y")))
    if not lower.shape == upper.shape == y.shape or not y.size:
        shapes = lower.shape, upper.shape, y.shape
        raise ValueError(f"lower, upper and y must have one shape and not be empty; found {shapes}")
    if np.any(lower > upper):
        raise ValueError(f"lower exceeds upper in {np.sum(lower > upper)} intervals: were they swapped?")
    return float(np.mean((lower <= y) & (y <= upper)))


def total_variance(means, variances):
    """Moments of the equal mixture of S Gaussians, one per draw of the weights. Two [S, ...] arrays.

    Returns (mean, aleatoric, epistemic), each [...]: the predictive mean, the mean of the variances and
    the variance of the means; the last two add up to the predictive variance. Law of total variance, in
    this use: Depeweg et al. (2018). `variances` are squared standard deviations, in units of y^2.
    """
    means, variances = _finite(means, "means"), _finite(variances, "variances")
    if means.shape != variances.shape or means.ndim < 1:
        shapes = means.shape, variances.shape
        raise ValueError(f"means and variances must have one shape [S, ...]; found {shapes}")
    if np.any(variances < 0):
        raise ValueError("variances must not be negative: were log-variances passed?")
    return means.mean(axis=0), variances.mean(axis=0), means.var(axis=0)


def monte_carlo_error(draws, sizes):
    """Standard error of a mean over s draws, for each s of `sizes`, root mean square over all else.

    draws [T, ...] with T at least twice the largest s. The draws are cut into T // s disjoint blocks; the
    spread of the blocks' means is the error, with no assumption of 1/sqrt(s). Returns [len(sizes)].
    """
    draws = _finite(draws, "draws")
    if min(sizes) < 1 or 2 * max(sizes) > len(draws):
        raise ValueError(f"sizes must lie in 1..{len(draws) // 2}, half the draws; found {list(sizes)}")
    errors = []
    for s in sizes:
        blocks = draws[: len(draws) // s * s].reshape(-1, s, *draws.shape[1:]).mean(axis=1, dtype=np.float64)
        errors.append(np.sqrt(blocks.var(axis=0, ddof=1).mean()))
    return np.array(errors)


def _checked(p, y):
    """Probabilities [N, C] and integer labels [N] that fit each other, or ValueError."""
    p, y = _distributions(p, 2), np.asarray(y)
    if y.shape != p.shape[:1]:
        raise ValueError(f"expected labels {p.shape[:1]} for probabilities {p.shape}; found {y.shape}")
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels must be integers (not one-hot, not floats); found {y.dtype}")
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"labels must lie in 0..{p.shape[1] - 1}; found {y.min()}..{y.max()}")
    return p, y


def _distributions(p, ndim):
    """An array of that many axes whose last one sums to 1, or ValueError."""
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


def _finite(a, name):
    a = np.asarray(a)
    a = a if np.issubdtype(a.dtype, np.floating) else a.astype(np.float64)
    if not np.isfinite(a).all():
        raise ValueError(f"{name}: {np.sum(~np.isfinite(a))} of {a.size} values are NaN or infinite")
    return a
