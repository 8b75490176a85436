"""The scores of a compared method: on held-out examples for the choice of its setting, and on the test set."""

import warnings

from helpers import data, metrics
from helpers.inference import predict
from helpers.methods.temperature import best_temperature, log_probabilities, rescale
from helpers.train.comparison.methods import Predictor
from helpers.train.comparison.task import Task

import numpy as np

SEVERITIES = (1, 3, 5)


def held_out_scores(predictor: Predictor, task: Task, seed: int = 0) -> dict[str, float]:
    """Return accuracy, NLL, Brier score and ECE of the held-out examples, by which a setting is chosen."""
    return metrics.summary(predict(predictor, task.held_out.x, task.draws, seed=seed).mean(axis=0), task.held_out.y)


def scores(predictor: Predictor, task: Task, seed: int = 0) -> dict[str, float]:
    """Return the scores of a trained method on the test set, as they are and after temperature scaling.

    Args:
      predictor: a Keras model or a posterior.
      task: the task on which it was trained.
      seed: of the draws.

    Returns:
      accuracy, nll, brier, ece: `metrics.summary`, ECE with 15 bins.
      adaptive_ece, squared_error: `metrics.adaptive_ece`, and `metrics.squared_calibration_error`, without bias.
      temperature, nll_scaled, ece_scaled: the temperature that the held-out examples choose, and the scores at it.
      auroc, fpr95: how well the entropy of the prediction tells the strangers from test examples.
      disagreement: how often two networks say different classes, divided by their error rate; 0 for one network.
    """
    held_out = log_probabilities(predict(predictor, task.held_out.x, task.draws, seed=seed))
    draws = predict(predictor, task.test.x, task.draws, seed=seed)
    p, y = draws.mean(axis=0), task.test.y
    try:
        temperature = best_temperature(held_out, task.held_out.y)
    except ValueError as error:  # all held-out examples are right, which happens with few and easy ones
        warnings.warn(f"No temperature was fitted, so it counts as 1: {error}", stacklevel=2)
        temperature = 1.0
    scaled = rescale(log_probabilities(p), temperature)
    doubt = metrics.predictive_entropy(draws)
    strangers = metrics.predictive_entropy(predict(predictor, task.strangers, task.draws, seed=seed))
    said = draws.argmax(axis=-1)
    errors = np.mean(said != y)
    return {
        **metrics.summary(p, y),
        "adaptive_ece": metrics.adaptive_ece(p, y),
        "squared_error": metrics.squared_calibration_error(p, y),
        "temperature": temperature,
        "nll_scaled": metrics.nll(scaled, y),
        "ece_scaled": metrics.ece(scaled, y),
        "auroc": metrics.auroc(doubt, strangers),
        "fpr95": metrics.false_positive_rate(doubt, strangers),
        "disagreement": float(np.mean(said[1:] != said[:-1]) / errors) if len(said) > 1 and errors else 0.0,
    }


def shift_scores(predictor: Predictor, task: Task, seed: int = 0) -> dict[str, float]:
    """Return accuracy, NLL and ECE of corrupted test images: `nll_3` is the mean over corruptions of severity 3.

    Also `nll_rotation` and so on, which are the NLL of each corruption at severity 3. The images are the task's first
    `corrupted` test images, in the style of Hendrycks and Dietterich (2019); see `data.corrupt`.
    """
    x, y = task.test.x[: task.corrupted], task.test.y[: task.corrupted]
    found: dict[str, float] = {}
    for severity in SEVERITIES:
        each = {}
        for name in data.SEVERITIES:
            p = predict(predictor, data.corrupt(x, name, severity, seed), task.corrupted_draws, seed=seed).mean(axis=0)
            each[name] = metrics.summary(p, y)
        for score in ("accuracy", "nll", "ece"):
            found[f"{score}_{severity}"] = float(np.mean([row[score] for row in each.values()]))
        if severity == 3:
            found |= {f"nll_{name}": row["nll"] for name, row in each.items()}
    return found
