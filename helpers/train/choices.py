"""From the flags of the training command to the model, the data, the optimiser and the loss."""

import math
import os
from pathlib import Path
from typing import NamedTuple

from helpers import data, elbo, files, models
from helpers.data import Dataset
from helpers.distributed import World
from helpers.inference import is_bayesian
from helpers.methods.moped import start_from_twin
from helpers.runs import restore_model

import numpy as np
import psutil
import tf_keras as keras
from absl.flags import FlagValues


class Examples(NamedTuple):
    """Images [N, H, W, C] and labels [N]."""

    x: np.ndarray
    y: np.ndarray


class Data(NamedTuple):
    """A data set, and its examples for training, for evaluations during the training, and for the test at the end."""

    dataset: Dataset
    training: Examples
    held_out: Examples
    test: Examples


def choose_model(flags: FlagValues) -> tuple[str, str]:
    """Return the name of the model in the catalogue and the name of its data set."""
    cifar = flags.dataset == "cifar10"
    if flags.model:
        name = flags.model
    elif flags.model_type == "BNN":
        name = flags.bnnConv or ("CIFAR10_BNN_model" if cifar else "BNN_conv_flip")
    else:
        name = flags.cnnConv or ("CIFAR10_CNN_model" if cifar else "CNN_conv")
    return name, flags.dataset or models.record(name).dataset


def choose_threads(flags: FlagValues) -> tuple[int | None, int | None]:
    """Return the threads within one operation and the operations at a time, for `distributed.init`.

    Set the variables of Intel's OpenMP, too.
    """
    for name in ("kmp_blocktime", "kmp_affinity"):
        if flags[name].value is not None:
            os.environ[name.upper()] = str(flags[name].value)
    cores = len(psutil.Process().cpu_affinity())
    return min(flags.num_intra, cores) or None, min(flags.num_inter, cores) or None


def data_folder(path: str | None, name: str) -> Path | None:
    """Return the file or folder from which the flag --data_dir says that the data set `name` is loaded.

    Raises:
      FileNotFoundError: there is no such file or folder.
    """
    if path is None:
        return None
    place = files.expanded(path)
    if not place.exists():
        raise FileNotFoundError(f"--data_dir={path}: there is no such file or folder to load {name} from")
    return place


def load(flags: FlagValues, name: str, world: World) -> Data:
    """Load the data set, and hold out the last training examples if they are to be evaluated on.

    Raises:
      DataError, FileNotFoundError, ValueError: the data cannot be used as the flags say.
      RankFailure: the rank that reads the data for this one failed.
    """
    folder, quiet = data_folder(flags.data_dir, name), world.rank > 0
    if flags.map_data_in is not None:
        dataset = data.load_mapped(name, flags.map_data_in, world, folder, quiet)
    else:
        dataset = data.load(name, folder, quiet)
    x, y, x_test = dataset.x_train, dataset.y_train, dataset.x_test
    if flags.subtract_pixel_mean:
        x, x_test = data.normalise(x), data.normalise(x_test)
        average = x.mean(axis=0)
        x, x_test = x - average, x_test - average
    cut = len(x) - (flags.validation_examples if flags.eval_freq else 0)
    if cut <= 0:
        raise ValueError(f"--validation_examples={flags.validation_examples} leaves none of {len(x)} to train on")
    training, held_out = Examples(x[:cut], y[:cut]), Examples(x[cut:], y[cut:])
    return Data(dataset, training, held_out, Examples(x_test, dataset.y_test))


def choose_length(flags: FlagValues, world_size: int) -> tuple[int, int | None]:
    """Return the epochs and the largest number of steps for `fit`. Iterations are divided by the number of ranks.

    Raises:
      ValueError: the flags ask to count by iterations and name none.
    """
    by_epochs = flags.use_epochs
    if by_epochs is None:
        by_epochs = flags.iterations is None or flags["epochs"].present
    if by_epochs:
        return flags.epochs, None
    if flags.iterations is None:
        raise ValueError("--use_epochs=false needs --iterations")
    steps = max(1, flags.iterations // world_size)
    return steps, steps


def scaled_learning_rate(flags: FlagValues, world_size: int) -> float:
    """Return the learning rate for `world_size` ranks (linear: Goyal et al. 2017, section 2.1)."""
    factor = {"linear": world_size, "sqrt": math.sqrt(world_size), "none": 1}
    return flags.learning_rate * factor[flags.scale_learning_rate]


def rate_warning(flags: FlagValues, world_size: int) -> str:
    """Return a warning if the ranks have raised the learning rate above 0.01, where Adam rarely converges; else ""."""
    rate = scaled_learning_rate(flags, world_size)
    if rate <= max(0.01, flags.learning_rate):
        return ""
    return (
        f"helpers.train: --scale_learning_rate={flags.scale_learning_rate} raises the learning rate to {rate:.3g} on "
        f"{world_size} ranks, and above 0.01 Adam rarely converges. Give "
        f"{'--scale_learning_rate=sqrt or ' * (flags.scale_learning_rate == 'linear')}a lower --learning_rate."
    )


def choose_optimizer(flags: FlagValues, world_size: int, num_examples: int) -> keras.optimizers.Optimizer:
    """Return Adam with the learning rate scaled by the ranks and, if asked for, a schedule over the whole run.

    Raises:
      DataError: the training set is too small for the batch size and the world size.
      ValueError: see `choose_length`.
    """
    rate = scaled_learning_rate(flags, world_size)
    epochs, max_steps = choose_length(flags, world_size)
    steps = epochs * data.steps_per_epoch(num_examples, flags.batch_size, world_size)
    if flags.decay == "cosine":
        # Half a cosine down to zero: Loshchilov and Hutter (2017), equation 5, without restarts.
        rate = keras.optimizers.schedules.CosineDecay(rate, min(steps, max_steps or steps))
    return keras.optimizers.legacy.Adam(rate)


def choose_loss(flags: FlagValues) -> elbo.NegativeElbo:
    """Return the negative ELBO with the weight of the KL that the flags ask for."""
    return elbo.NegativeElbo(kl_weight=elbo.warmup(flags.kl_annealing_epochs, flags.kl_regularizer))


def build_model(flags: FlagValues, name: str, dataset: Dataset) -> keras.Model:
    """Build the model and, if --init_from names a run of its deterministic twin, start from that run's weights.

    Raises:
      ValueError: the model is not Bayesian, or the folder holds no run of its twin.
    """
    shape, classes = dataset.input_shape, dataset.num_classes
    model = models.build(name, shape, classes, seed=flags.seed, mixed_precision=flags.mixed_precision)
    if flags.init_from:
        if not is_bayesian(model):
            raise ValueError(f"--init_from starts a BNN from its twin, and {name} is not Bayesian")
        twin = models.build(models.twin(name), shape, classes)
        restore_model(twin, flags.init_from)
        start_from_twin(model, twin, flags.prior_scale, flags.delta)
    return model


def own_settings(flags: FlagValues) -> dict:
    """Return the flags on priors and precision that a resumed run must share with the run that it resumes."""
    names: tuple[str, ...] = ("init_from", "prior_scale", "delta") if flags.init_from else ()
    names += ("mixed_precision",) if flags.mixed_precision != "none" else ()  # older runs have no such setting
    return {name: flags[name].value for name in names}
