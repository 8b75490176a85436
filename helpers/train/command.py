"""The training command: `python -m helpers.train --flagfile=cluster/flags/mnist_bnn.cfg`.

Alone, or on every rank under horovodrun, mpiexec, aprun or srun. Its output is described in the README.
"""

import contextlib
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path

from helpers import RUNS, data, files, models
from helpers.data.catalogue import DATASETS
from helpers.distributed import devices
from helpers.distributed import watchdog as watch
from helpers.files import write
from helpers.fit import RankFailure, agree, fit
from helpers.inference.monte_carlo import sample_probabilities
from helpers.methods.moped import start_from_twin
from helpers.progress import launched_rank
from helpers.runs import restore_model
from helpers.train.flags import FLAGS, help_text
from helpers.train.report import make_report, summarise

import numpy as np
import psutil
import tf_keras as keras
from absl import flags as absl_flags


def choose_model(flags):
    """The catalogue's name for what the flags ask, and the name of its data set."""
    cifar = flags.dataset == "cifar10"
    if flags.model:
        name = flags.model
    elif flags.model_type == "BNN":
        name = flags.bnnConv or ("CIFAR10_BNN_model" if cifar else "BNN_conv_flip")
    else:
        name = flags.cnnConv or ("CIFAR10_CNN_model" if cifar else "CNN_conv")
    return name, flags.dataset or ("cifar10" if name.startswith("CIFAR10") else "mnist")


def start_ranks(flags):
    """Set the threads, take a GPU if there is one and, if a launcher started this process, join the other ranks."""
    for name in ("kmp_blocktime", "kmp_affinity"):
        if flags[name].value is not None:
            os.environ[name.upper()] = str(flags[name].value)
    cores = len(psutil.Process().cpu_affinity())
    threads = [min(number, cores) or None for number in (flags.num_intra, flags.num_inter)]
    if launched_rank() is None:
        devices.prepare(*threads)
        return None
    from helpers import distributed

    return distributed.init(*threads)


def data_folder(path, name):
    """The folder to hand to `data.load` for --data_dir, which may name the data set's own file or folder."""
    if path is None:
        return None
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"--data_dir={path}: there is no such file or folder")
    if path.is_file() and path.name not in DATASETS[name].file_names:
        names = ", ".join(DATASETS[name].file_names)
        raise ValueError(f"--data_dir={path}: {DATASETS[name].title} is read from a folder, or a file named {names}")
    return path.parent if path.is_file() or path.name == "cifar-10-batches-py" else path


def load(flags, name, rank):
    """(data set, training part, part held out from it, test part); each part is (images, labels)."""
    dataset = data.load(name, data_folder(flags.data_dir, name), quiet=rank > 0)
    x, y, x_test = dataset.x_train, dataset.y_train, dataset.x_test
    if flags.subtract_pixel_mean:
        x, x_test = data.normalise(x), data.normalise(x_test)
        average = x.mean(axis=0)
        x, x_test = x - average, x_test - average
    cut = len(x) - (flags.validation_examples if flags.eval_freq else 0)
    if cut <= 0:
        raise ValueError(f"--validation_examples={flags.validation_examples} leaves none of {len(x)} to train on")
    return dataset, (x[:cut], y[:cut]), (x[cut:], y[cut:]), (x_test, dataset.y_test)


def length(flags, world_size):
    """(epochs, max_steps) for `fit`; iterations are shared out over the ranks."""
    by_epochs = flags.use_epochs
    if by_epochs is None:
        by_epochs = flags.iterations is None or flags["epochs"].present
    if by_epochs:
        return flags.epochs, None
    if flags.iterations is None:
        raise ValueError("--use_epochs=false needs --iterations")
    steps = max(1, flags.iterations // world_size)
    return steps, steps


def scaled_learning_rate(flags, world_size):
    """The learning rate for `world_size` ranks (linear: Goyal et al. 2017, section 2.1)."""
    factor = {"linear": world_size, "sqrt": math.sqrt(world_size), "none": 1}
    return flags.learning_rate * factor[flags.scale_learning_rate]


def rate_warning(flags, world_size):
    """What to print if the ranks have raised the learning rate above 0.01, where Adam rarely converges; else ""."""
    rate = scaled_learning_rate(flags, world_size)
    if rate <= max(0.01, flags.learning_rate):
        return ""
    return (
        f"helpers.train: --scale_learning_rate={flags.scale_learning_rate} raises the learning rate to {rate:.3g} on "
        f"{world_size} ranks, and above 0.01 Adam rarely converges. Give "
        f"{'--scale_learning_rate=sqrt or ' * (flags.scale_learning_rate == 'linear')}a lower --learning_rate."
    )


def decayed_learning_rate(flags, world_size, num_examples, epochs, max_steps):
    """The learning rate for `fit`: scaled by the ranks, and a schedule over the whole run where one is asked for."""
    rate = scaled_learning_rate(flags, world_size)
    steps = epochs * data.steps_per_epoch(num_examples, flags.batch_size, world_size)
    if flags.decay == "none":
        return rate
    # Half a cosine down to zero: Loshchilov and Hutter (2017), equation 5, without restarts.
    return keras.optimizers.schedules.CosineDecay(rate, min(steps, max_steps or steps))


def build(flags, name, dataset):
    """The model, started from its twin's run where --init_from names one."""
    shape = dataset.input_shape, dataset.num_classes
    model = models.build(name, *shape, seed=flags.seed, mixed_precision=flags.mixed_precision)
    if flags.init_from:
        if not models.is_bayesian(model):
            raise ValueError(f"--init_from starts a BNN from its twin, and {name} is not Bayesian")
        twin = models.build(models.twin(name), *shape)
        restore_model(twin, flags.init_from)
        start_from_twin(model, twin, flags.prior_scale, flags.delta)
    return model


def own_settings(flags):
    """What of priors and precision a resumed run must have in common with the one that it resumes."""
    names = ("init_from", "prior_scale", "delta") if flags.init_from else ()
    names += ("mixed_precision",) if flags.mixed_precision != "none" else ()  # older runs have no such setting
    return {name: flags[name].value for name in names}


def empty(folder):
    """Remove all that is in the folder but its lock, which is this process's."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != files.NAME:
            path.unlink()


def train(flags, stack, on_checkpoint=None):
    """Train and evaluate as `flags` say. Every rank calls it; rank 0 writes, and holds its folder on the ExitStack."""
    world = start_ranks(flags)
    # TensorFlow generates modules in the folder for temporary files, and would leave their bytecode there.
    sys.dont_write_bytecode = True
    rank, size = (world.rank, world.size) if world else (0, 1)
    began = psutil.Process().create_time()
    spent = {"imports": time.time() - began}
    name, dataset_name = choose_model(flags)
    folder = Path(flags.output or RUNS) / name
    peers = {rank: os.getpid()}
    if world:
        from helpers import distributed

        peers = distributed.neighbours()
        watch.listen()
    watch.start(rank, peers, folder, flags.elastic)
    failure, report = None, None
    try:
        if flags.resume and flags.overwrite:
            raise ValueError("--resume goes on with the run that is there, and --overwrite removes it: choose one")
        epochs, max_steps = length(flags, size)
        dataset, training, held_out, test = load(flags, dataset_name, rank)
        rate = decayed_learning_rate(flags, size, len(training[0]), epochs, max_steps)
        spent["data"] = time.time() - began - sum(spent.values())
        model = build(flags, name, dataset)
        if rank == 0:
            if warning := rate_warning(flags, size):
                print(warning, file=sys.stderr, flush=True)
            stack.enter_context(files.held(folder))
            if flags.overwrite:
                empty(folder)
            report = make_report(flags, folder, held_out)
    except (ValueError, OSError, data.DataError) as error:
        failure = error
    agree(failure, world)
    if rank == 0 and flags.verbose:
        print(flags.flags_into_string())
        model.summary()
    frequencies = [n for n in (flags.print_step, flags.eval_freq) if n]
    spent["model"] = time.time() - began - sum(spent.values())
    history = fit(
        model, *training, epochs=epochs, max_steps=max_steps, batch_size=flags.batch_size,
        learning_rate=rate, augment=flags.augment, settings=own_settings(flags), kl_final=flags.kl_regularizer,
        kl_warmup_epochs=flags.kl_annealing_epochs, seed=flags.seed, world=world,
        half_precision=flags.compression, folder=folder, resume=flags.resume,
        checkpoint_every=flags.checkpoint_every, callback=report,
        callback_every=math.gcd(*frequencies) or None, on_checkpoint=on_checkpoint,
    )  # fmt: skip
    draws = sample_probabilities(model, test[0], flags.num_monte_carlo, seed=flags.seed, world=world)
    if rank == 0:
        if not np.isfinite(draws).all():
            # The last step's loss is from before its update.
            raise FloatingPointError(f"{name} gives no finite probabilities; try a lower learning rate")
        summary = summarise(flags, model, history, dataset, draws, size, spent)
        write(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        print(f"{name} on {dataset.provenance}, {size} rank{'s' * (size > 1)}:")
        print(", ".join(f"{k} {v:.4f}" for k, v in summary["test"].items()) + f"; kept in {folder}")


def main(argv=None):
    """Run the command and return its exit status.

    Returns:
      0; 1 for what failed; 2 for flags that do not parse; `watch.STATUS` for a run that a signal stopped at a
      checkpoint. A signal that finds no training to stop ends the process with 128 and the signal's number.
    """

    def stop(error, status):
        watch.hush()
        if not launched_rank() or isinstance(error, MemoryError):
            print(f"helpers.train: {error}", file=sys.stderr, flush=True)
        return status

    try:
        rest = FLAGS(sys.argv if argv is None else ["helpers.train", *argv])
        if len(rest) > 1:
            raise absl_flags.Error(f"unexpected argument {rest[1]!r}; flags are written --name=value")
    except (absl_flags.Error, UnicodeDecodeError) as error:  # a flagfile that is no text
        return stop(f"{error} (--help lists the flags)", 2)
    if FLAGS.help:
        print("" if launched_rank() else help_text(), end="")
        return 0
    try:
        if FLAGS.elastic:
            from helpers.train import elastic

            elastic.run(train, FLAGS)
        else:
            with contextlib.ExitStack() as stack:
                train(FLAGS, stack)
    except watch.Stopped as error:
        return stop(error, watch.STATUS)
    except watch.PeerLost as error:
        if launched_rank() and "shut down" in str(error):
            watch.hush()
            return 1  # the rank that ended in order, and made Horovod do so, has said why
        watch.end(f"the ranks have lost each other ({error})")
    except (ValueError, OSError, data.DataError, FloatingPointError, RankFailure) as error:
        return stop(error, 1)
    except MemoryError as error:
        return stop(MemoryError(f"the memory does not suffice: {error}"), 1)
    return 0
