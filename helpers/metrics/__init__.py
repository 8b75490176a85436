"""Scores of a predictive distribution: accuracy, calibration, uncertainty and its parts. NumPy in, numbers out.

Two shapes occur everywhere. `p` [N, C] holds one predictive distribution for each of N examples over C classes, which
for a Bayesian neural network is the mean over its draws. `draws` [S, N, C] holds S Monte Carlo draws of it. Labels `y`
[N] are integers. Entropies and losses are in nats. All arithmetic has the precision of the input or better. Every
function raises ValueError, with the reason, for input that cannot be what it is said to be.
"""

from helpers.metrics.calibration import adaptive_ece, calibration_curve, ece, squared_calibration_error
from helpers.metrics.scores import (
    accuracy,
    accuracy_vs_retained,
    auroc,
    brier,
    coverage,
    false_positive_rate,
    nll,
    summary,
)
from helpers.metrics.uncertainty import (
    expected_entropy,
    monte_carlo_error,
    mutual_information,
    predictive_entropy,
    total_variance,
)

__all__ = [
    "accuracy",
    "accuracy_vs_retained",
    "adaptive_ece",
    "auroc",
    "brier",
    "calibration_curve",
    "coverage",
    "ece",
    "expected_entropy",
    "false_positive_rate",
    "monte_carlo_error",
    "mutual_information",
    "nll",
    "predictive_entropy",
    "squared_calibration_error",
    "summary",
    "total_variance",
]
