"""What the training command tells of a run: lines, evaluations, figures of the weights, the summary."""

import json

from helpers import metrics, models, provenance
from helpers.files import write
from helpers.inference.monte_carlo import sample_probabilities


def make_report(flags, folder, held_out):
    """The callback for rank 0 that prints, evaluates on held-out training examples, and plots."""
    path = folder / "validation.json"
    try:
        evaluations = json.loads(path.read_text()) if flags.resume and path.exists() else []
        evaluations.sort(key=lambda row: row["step"])
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, and resume again") from error

    def due(frequency, step):
        return frequency and step and step % frequency == 0

    def report(step, model, means):
        if step == 0:
            write(folder / "config.json", json.dumps(flags.flag_values_dict(), indent=1) + "\n")
        if due(flags.print_step, step):
            print(f"step {step}: " + ", ".join(f"{k} {v:.4f}" for k, v in means.items()), flush=True)
        if due(flags.eval_freq, step):
            draws = sample_probabilities(model, held_out[0], flags.num_monte_carlo, seed=flags.seed)
            evaluations[:] = [row for row in evaluations if row["step"] != step]
            evaluations.append({"step": step, **metrics.summary(draws, held_out[1])})
            write(path, json.dumps(evaluations, indent=1) + "\n")
        if flags.plotting and step % (flags.eval_freq or flags.print_step or 1) == 0:
            plot_weights(model, step, folder / f"weights_{step:06d}.png")

    return report


def plot_weights(model, step, path):
    """Save the figure of the weight posteriors; a deterministic model has none."""
    from helpers import plots

    import matplotlib.pyplot as plt

    if models.is_bayesian(model):
        plots.use_style()
        figure = plots.weight_posteriors({f"step {step}": models.posterior_moments(model)})[0][0].figure
        figure.savefig(path)
        plt.close(figure)


def summarise(flags, model, history, dataset, draws, size, spent):
    """The run's summary, as a dict that JSON can hold."""
    mine = history.steps[history.resumed :]
    # The first call compiles; the rate is that of the others.
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
