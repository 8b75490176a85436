"""The training command: `python -m helpers.train --flagfile=cluster/flags/mnist_bnn.cfg`.

It runs alone, or on every rank under horovodrun, mpiexec, aprun or srun. docs/training.md describes its output.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable

from helpers import RUNS, data, files
from helpers.distributed import PeerLost, RankFailure, init, local_ranks, watchdog
from helpers.fit import fit
from helpers.inference import predict
from helpers.progress import escape_unprintable, launched_rank
from helpers.runs import Run, advice, empty
from helpers.train import choices
from helpers.train.flags import FLAGS, help_text
from helpers.train.report import make_report, summarise

import numpy as np
import psutil
from absl import flags as absl_flags


def train(flags: absl_flags.FlagValues, stack: contextlib.ExitStack, run_class: Callable[..., Run] = Run) -> None:
    """Train and evaluate as the flags say. Every rank calls it; rank 0 writes.

    Args:
      flags: the flags of the command.
      stack: rank 0 holds the run's folder on it.
      run_class: makes the `Run`; elastic training has its own.
    """
    threads, inter_threads = choices.choose_threads(flags)
    world = init(threads, inter_threads, half_precision=flags.compression)
    # TensorFlow generates modules in the folder for temporary files, and would leave their bytecode there.
    sys.dont_write_bytecode = True
    began = psutil.Process().create_time()
    spent = {"imports": time.time() - began}
    name, dataset_name = choices.choose_model(flags)
    folder = files.expanded(flags.output or RUNS) / name
    if launched_rank() is not None:
        watchdog.listen()
    watchdog.start(world.rank, local_ranks(world), lambda: advice(folder), flags.elastic, world.size)

    failure, report = None, None
    try:
        if flags.resume and flags.overwrite:
            raise ValueError("--resume goes on with the run that is there, and --overwrite removes it: choose one")
        found = choices.load(flags, dataset_name, world)
        optimizer = choices.choose_optimizer(flags, world.size, len(found.training.x))
        spent["data"] = time.time() - began - sum(spent.values())
        model = choices.build_model(flags, name, found.dataset)
        if world.rank == 0:
            if warning := choices.rate_warning(flags, world.size):
                print(warning, file=sys.stderr, flush=True)
            stack.enter_context(files.held(folder))
            if flags.overwrite:
                empty(folder)
            report = make_report(flags, folder, found.held_out)
    except (ValueError, OSError, data.DataError, RankFailure) as error:
        failure = error
    world.agree(failure)
    if world.rank == 0 and flags.verbose:
        print(flags.flags_into_string())
        model.summary()

    epochs, max_steps = choices.choose_length(flags, world.size)
    frequencies = [n for n in (flags.print_step, flags.eval_freq) if n]
    spent["model"] = time.time() - began - sum(spent.values())
    run = run_class(
        folder=folder,
        world=world,
        resume=flags.resume,
        checkpoint_every=flags.checkpoint_every,
        max_steps=max_steps,
        settings=choices.own_settings(flags),
        callback=report,
        callback_every=math.gcd(*frequencies) or None,
    )
    history = fit(
        model,
        *found.training,
        epochs=epochs,
        batch_size=flags.batch_size,
        optimizer=optimizer,
        loss=choices.choose_loss(flags),
        augment=data.shift_and_reflect if flags.augment else None,
        seed=flags.seed,
        run=run,
    )
    draws = predict(model, found.test.x, flags.num_monte_carlo, seed=flags.seed, world=world)
    if world.rank == 0:
        if not np.isfinite(draws).all():
            # The loss of the last step is from before its update.
            raise FloatingPointError(f"{name} gives no finite probabilities; try a lower learning rate")
        summary = summarise(flags, model, history, found.dataset, draws, world.size, spent)
        files.write(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        print(f"{name} on {found.dataset.provenance}, {world.size} rank{'s' * (world.size > 1)}:")
        print(", ".join(f"{k} {v:.4f}" for k, v in summary["test"].items()) + f"; kept in {folder}")


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Returns:
      The exit status: 0; 1 for a failure; 2 for flags that cannot be parsed; `watchdog.STATUS` for a run that a signal
      stopped at a checkpoint. A signal that finds no training to stop ends the process with 128 and the signal's
      number.
    """

    escape_unprintable()

    def stop(error, status):
        watchdog.silence()
        if not launched_rank() or isinstance(error, MemoryError):
            print(f"helpers.train: {error}", file=sys.stderr, flush=True)
        return status

    try:
        rest = FLAGS(sys.argv if argv is None else ["helpers.train", *argv])
        if len(rest) > 1:
            raise absl_flags.Error(f"unexpected argument {rest[1]!r}; flags are written --name=value")
    except absl_flags.Error as error:
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
    except watchdog.Stopped as error:
        return stop(error, watchdog.STATUS)
    except PeerLost as error:
        if launched_rank() and "shut down" in str(error):
            watchdog.silence()
            return 1  # the rank that ended in order, which made Horovod shut down, has given the reason
        watchdog.end(f"the ranks have lost each other ({error})")
    except (ValueError, OSError, data.DataError, FloatingPointError, RankFailure) as error:
        return stop(error, 1)
    except MemoryError as error:
        return stop(MemoryError(f"the memory does not suffice: {error}"), 1)
    return 0
