"""What the training command reports of a run: lines, evaluations, figures of the weights, and the summary."""

import json
from collections.abc import Callable
from pathlib import Path

from helpers import metrics, provenance
from helpers.data import Dataset
from helpers.files import write
from helpers.inference import is_bayesian, posterior_moments, predict
from helpers.runs import History

import numpy as np
import tf_keras as keras
from absl.flags import FlagValues


def make_report(flags: FlagValues, folder: Path, held_out: tuple[np.ndarray, np.ndarray]) -> Callable:
    """Return the callback for rank 0 that prints, evaluates on held-out training examples, and plots.

    Args:
      flags: the flags of the command.
      folder: the folder of the run.
      held_out: images [N, H, W, C] and labels [N].

    Raises:
      ValueError: the run is resumed, and its file of evaluations is damaged.
    """
    path = folder / "validation.json"
    try:
        evaluations = json.loads(path.read_text("utf-8")) if flags.resume and path.exists() else []
        evaluations.sort(key=lambda row: row["step"])
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}). Remove it, and resume again.") from error

    def due(frequency, step):
        return frequency and step and step % frequency == 0

    def report(step, model, means):
        if step == 0:
            write(folder / "config.json", json.dumps(flags.flag_values_dict(), indent=1) + "\n")
        if due(flags.print_step, step):
            print(f"step {step}: " + ", ".join(f"{k} {v:.4f}" for k, v in means.items()), flush=True)
        if due(flags.eval_freq, step):
            draws = predict(model, held_out[0], flags.num_monte_carlo, seed=flags.seed)
            evaluations[:] = [row for row in evaluations if row["step"] != step]
            evaluations.append({"step": step, **metrics.summary(draws, held_out[1])})
            write(path, json.dumps(evaluations, indent=1) + "\n")
        if flags.plotting and step % (flags.eval_freq or flags.print_step or 1) == 0:
            plot_weights(model, step, folder / f"weights_{step:06d}.png")

    return report


def plot_weights(model: keras.Model, step: int, path: Path) -> None:
    """Save the figure of the weight posteriors. A deterministic model has none."""
    from helpers import plots

    import matplotlib.pyplot as plt

    if is_bayesian(model):
        plots.use_style()
        figure = plots.weight_posteriors({f"step {step}": posterior_moments(model)})[0][0].figure
        figure.savefig(path)
        plt.close(figure)


def summarise(
    flags: FlagValues,
    model: keras.Model,
    history: History,
    dataset: Dataset,
    draws: np.ndarray,
    size: int,
    spent: dict,
) -> dict:
    """Return the summary of the run, as a dict that JSON can hold.

    Args:
      flags: the flags of the command.
      model: the trained model.
      history: what `fit` has returned on rank 0.
      dataset: the data set, with its test labels [N].
      draws: probabilities [S, N, C] on the test set.
      size: the number of ranks.
      spent: seconds that the parts of the start have taken.
    """
    mine = history.steps[history.resumed :]
    # The first call compiles, so the rate is that of the others.
    steps, seconds = (sum(call[key] for call in mine[1:]) for key in ("steps", "seconds"))
    return {
        "model": model.name,
        "parameters": model.count_params(),
        "test": metrics.summary(draws, dataset.y_test),
        "draws": len(draws),
        "training": history.epochs[-1] if history.epochs else None,
        "images_per_second": steps * flags.batch_size * size / seconds if seconds else None,
        "seconds_to_first_step": {**spent, "first call": mine[0]["seconds"]} if mine else spent,
        **provenance.collect(dataset, world_size=size),
    }
