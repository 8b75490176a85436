"""Calibration: whether predictions of a confidence c are right in a fraction c of all cases."""

from helpers.metrics.checks import checked

import numpy as np
from numpy.typing import ArrayLike


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
    p, y = checked(p, y)
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


def adaptive_ece(p: ArrayLike, y: ArrayLike, bins: int = 15) -> float:
    """Return the expected calibration error with bins of as many examples each, from 0 to 1. p [N, C], y [N].

    Equal-width bins put nearly all predictions of a good classifier into the last bin. The bins here adapt to the
    predictions as in the adaptive calibration error of Nixon et al. (2019, arXiv:1904.01685, section 3), but for the
    largest probability alone and not for all classes. Like `ece`, the estimate is biased upwards.

    Raises:
      ValueError: there are fewer examples than bins.
    """
    gaps, counts = _equal_mass(p, y, bins, 1)
    return float(sum(n * abs(gap.mean()) for gap, n in zip(gaps, counts, strict=True)) / sum(counts))


def squared_calibration_error(p: ArrayLike, y: ArrayLike, bins: int = 15) -> float:
    """Estimate the squared calibration error in equal-mass bins without its bias. p [N, C], y [N].

    The squared gap of confidence and accuracy in a bin of n examples is too large by the variance of the gap's mean, of
    which we subtract the unbiased estimate, the sample variance of (confidence - correct) over n. So the mean of the
    estimate is 0 for a calibrated predictor, and a single estimate can be negative. Kumar, Liang and Ma (2019,
    arXiv:1909.10155, section 5) use this estimator, of Bröcker (2012) and of Ferro and Fricker (2012), for confidences
    that are equal within a bin. Then the two are the same. If the result is positive, its root is a calibration error
    in the units of `ece`, which weights large gaps more.

    Raises:
      ValueError: there are fewer than two examples for each bin.
    """
    gaps, counts = _equal_mass(p, y, bins, 2)
    squares = [gap.mean() ** 2 - gap.var(ddof=1) / n for gap, n in zip(gaps, counts, strict=True)]
    return float(np.average(squares, weights=counts))


def _equal_mass(p: ArrayLike, y: ArrayLike, bins: int, least: int) -> tuple[list[np.ndarray], list[int]]:
    """Return confidence - correct of the examples in each bin, and the numbers of examples."""
    p, y = checked(p, y)
    if bins < 1 or len(y) < least * bins:
        raise ValueError(f"expected at least {least * bins} examples for {bins} bins, found {len(y)}. Take fewer bins.")
    confidence = p.max(axis=1).astype(np.float64)
    order = np.argsort(confidence, kind="stable")  # which does not look at the labels
    gaps = np.array_split((confidence - (p.argmax(axis=1) == y))[order], bins)
    return gaps, [len(gap) for gap in gaps]
