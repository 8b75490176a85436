"""How each of the compared methods trains a network of the task, and the settings that it may try."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from helpers.distributed import ALONE, World
from helpers.fit import fit
from helpers.inference import Posterior
from helpers.methods.dropout import MCDropout
from helpers.methods.ensemble import Ensemble, train_members
from helpers.methods.ivon import IVON
from helpers.methods.laplace import LastLayerLaplace
from helpers.methods.swag import SWAG
from helpers.runs import Run
from helpers.train.comparison.task import Task, flipout_network, network

import tf_keras as keras

Predictor: TypeAlias = keras.Model | Posterior
Settings = Mapping[str, Mapping[str, Any]]  # a setting for each method
MEMBERS = 5  # networks of an ensemble


class Method(NamedTuple):
    """One row of the table.

    Attributes:
      train: (task, seed, settings, folder) -> what `predict` takes. `settings` holds a setting for each method that it
        needs. What is trained is kept in `folder`, and found there again. None keeps nothing.
      trials: the settings among which the held-out examples choose; none if the method has no setting of its own.
      networks: how many networks it trains.
      deeper: the trials for the deeper network of CIFAR-10, where they differ. Its step length matters most.
    """

    train: Callable[[Task, int, Settings, Path | None], Predictor]
    trials: tuple[dict[str, Any], ...] = ()
    networks: int = 1
    deeper: tuple[dict[str, Any], ...] = ()

    def settings(self, dataset: str) -> tuple[dict[str, Any], ...]:
        """Return the settings that the method may try on a data set."""
        return self.deeper if self.deeper and dataset == "cifar10" else self.trials


def _fit(
    task: Task, model: keras.Model, seed: int, optimizer: Any, kind: str, setting: Mapping, folder: Path | None
) -> None:
    """Train within the task's budget, or restore what an earlier call of the same kind and setting has trained."""
    name = "-".join([kind, *(f"{key}={value}" for key, value in setting.items())])
    run = Run(folder=folder and folder / task.name / name / str(seed), resume=True, steps_per_call=50)
    fit(
        model,
        *task.training,
        epochs=task.epochs,
        batch_size=task.batch_size,
        optimizer=optimizer,
        augment=task.augment,
        seed=seed,
        run=run,
    )


def _schedule(peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return a rate that rises to its peak in a twentieth of the steps, and then falls to zero along a cosine."""
    rising = max(1, steps // 20)
    return keras.optimizers.schedules.CosineDecay(0.0, steps - rising, warmup_target=peak, warmup_steps=rising)


def _adam(task: Task, rate: float) -> keras.optimizers.Optimizer:
    return keras.optimizers.legacy.Adam(_schedule(rate, task.steps))


def _deterministic(task: Task, seed: int, settings: Settings, folder: Path | None) -> Predictor:
    setting = settings["deterministic"]
    model = network(task, seed, setting["prior_scale"])
    _fit(task, model, seed, _adam(task, setting["learning_rate"]), "deterministic", setting, folder)
    return model


def _flipout(task: Task, seed: int, settings: Settings, folder: Path | None) -> Predictor:
    setting = settings["flipout"]
    model = flipout_network(task, seed, setting["prior_scale"])
    _fit(task, model, seed, _adam(task, setting["learning_rate"]), "flipout", setting, folder)
    return model


def _ivon(task: Task, seed: int, settings: Settings, folder: Path | None) -> Predictor:
    setting = settings["ivon"]
    model = network(task, seed)
    rate = _schedule(setting["learning_rate"], task.steps)
    optimizer = IVON(rate, len(task.training.x), beta2=setting["beta2"])
    _fit(task, model, seed, optimizer, "ivon", setting, folder)
    return optimizer.posterior(model)


def _dropout(task: Task, seed: int, settings: Settings, folder: Path | None) -> Predictor:
    setting = settings["dropout"]
    base = settings["deterministic"]["prior_scale"]
    model = network(task, seed, base, setting["rate"])
    _fit(task, model, seed, _adam(task, setting["learning_rate"]), "dropout", {**setting, "prior_scale": base}, folder)
    return MCDropout(model)


def _laplace(task: Task, seed: int, settings: Settings, folder: Path | None) -> Predictor:
    model = _deterministic(task, seed, settings, folder)
    return LastLayerLaplace(model, task.training.x, **settings["laplace"])


def _swag(task: Task, seed: int, settings: Settings, folder: Path | None) -> Predictor:
    """Train two thirds of the epochs as the deterministic network, and collect along SGD in the last third."""
    base, collected = settings["deterministic"], max(1, task.epochs // 3)
    model = network(task, seed, base["prior_scale"])
    start = task._replace(epochs=task.epochs - collected)
    _fit(start, model, seed, _adam(start, base["learning_rate"]), "start", base, folder)
    swag = SWAG(model)
    # No folder keeps this part, because a checkpoint does not hold what has been collected.
    fit(
        model,
        *task.training,
        epochs=collected,
        batch_size=task.batch_size,
        optimizer=keras.optimizers.legacy.SGD(settings["swag"]["learning_rate"], momentum=0.9),
        augment=task.augment,
        seed=seed + 1_000_000,  # another order of the examples
        run=Run(callback=swag.collect, callback_every=max(1, task.steps // task.epochs // 10)),
    )
    return swag


def _ensemble(train_member: Callable) -> Callable:
    """Return the training of an ensemble whose members have the seeds MEMBERS * seed, MEMBERS * seed + 1, ..."""

    def train_all(task: Task, seed: int, settings: Settings, folder: Path | None, world: World = ALONE) -> Predictor:
        def train(member: int) -> Predictor:
            return train_member(task, MEMBERS * seed + member, settings, folder)

        if world.size > 1:  # each rank trains some of them, and then finds all of them in the folder
            train_members(lambda member: train(member) and None, MEMBERS, world)
        return Ensemble([train(member) for member in range(MEMBERS)])

    return train_all


def _grid(**values: tuple) -> tuple[dict[str, Any], ...]:
    return tuple(dict(zip(values, point, strict=True)) for point in itertools.product(*values.values()))


# Four trials a method, and three for the deeper network. Methods that build on the deterministic network take the
# setting that was chosen for it.
METHODS = {
    "deterministic": Method(
        _deterministic,
        _grid(learning_rate=(2e-3, 4e-3), prior_scale=(None, 4.0)),
        deeper=_grid(learning_rate=(1e-3, 2e-3, 4e-3), prior_scale=(None,)),
    ),
    "flipout": Method(_flipout, _grid(learning_rate=(2e-3, 4e-3), prior_scale=(1.0, 4.0))),
    "ivon": Method(
        _ivon,
        _grid(learning_rate=(0.2, 0.5), beta2=(0.9995, 0.9999)),
        deeper=_grid(learning_rate=(0.05, 0.1, 0.2), beta2=(0.9995,)),
    ),
    "dropout": Method(_dropout, _grid(learning_rate=(1e-3, 2e-3), rate=(0.1, 0.3))),
    "swag": Method(_swag, _grid(learning_rate=(1e-3, 3e-3, 1e-2, 3e-2))),
    "laplace": Method(_laplace, _grid(precision=(3.0, 10.0, 30.0, 100.0))),
    "ensemble": Method(_ensemble(_deterministic), networks=MEMBERS),
    "ivon_ensemble": Method(_ensemble(_ivon), networks=MEMBERS),
}


def chosen(dataset: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the setting of each method whose trial has the lowest held-out NLL; the first one if none was tried.

    Args:
      dataset: the name of a data set.
      rows: the table of trials, with the columns dataset, method, trial and nll. Rows of failed trials are left out.

    Raises:
      ValueError: a row has the number of a trial that the method does not have.
    """
    best: dict[str, tuple[float, int]] = {}
    for row in rows:
        if row["dataset"] == dataset and row.get("status", "done") == "done":
            result = float(row["nll"]), int(row["trial"])
            best[row["method"]] = min(result, best.get(row["method"], result))
    return {
        name: tried(dataset, name, best.get(name, (0.0, 0))[1]) for name, method in METHODS.items() if method.trials
    }


def tried(dataset: str, method: str, trial: int) -> dict[str, Any]:
    """Return the setting of a trial.

    Raises:
      ValueError: there is no such method, or it has no such trial for this data set.
    """
    if method not in METHODS:
        raise ValueError(f"expected a method of {', '.join(METHODS)}, found {method!r}")
    settings = METHODS[method].settings(dataset)
    if not 0 <= trial < len(settings):
        raise ValueError(
            f"{method} has {len(settings)} trials on {dataset}, counted from 0, and none of number {trial}"
        )
    return settings[trial]
