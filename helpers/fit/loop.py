"""The training loop, on one rank or on many."""

import time
from collections.abc import Callable

from helpers import data, elbo
from helpers.distributed import watchdog
from helpers.fit.averages import MovingAverages
from helpers.fit.check import check, warn
from helpers.fit.steps import State, compile_steps
from helpers.layers import noise
from helpers.progress import bar
from helpers.runs import History, Run

import numpy as np
import tensorflow as tf
import tf_keras as keras

RESUMABLE = "its checkpoint is saved, and the same command with --resume goes on from there"
NOTHING = "nothing is kept"


def fit(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    epochs: int = 1,
    batch_size: int = 64,
    optimizer: keras.optimizers.Optimizer | None = None,
    loss: elbo.NegativeElbo = elbo.NegativeElbo(),  # noqa: B008 (it cannot be changed)
    augment: Callable | None = None,
    seed: int = 0,
    run: Run = Run(),  # noqa: B008
) -> History:
    """Train `model` on the negative ELBO.

    Call it alone, or with the same arguments on every rank of `run.world`. Then each rank takes its shard of each
    epoch's order, and the gradients are averaged. So N ranks with batches of b examples follow one rank with batches
    of N * b. Batch normalisation is an exception, because it normalises each rank's batch by itself. The ranks average
    its moving averages before each checkpoint, each callback and the end.

    Each rank draws noise of its own, whatever layer draws it. The numbers depend on `seed`, the rank and the step. For
    generators that the checkpoint holds, such as those of `helpers.layers`, a resumed run draws the same numbers as an
    uninterrupted one. It draws other numbers for dropout, tfp.layers and all others that use TensorFlow's random
    operations, whose state cannot be saved, but the same ones whenever it is resumed at the same step. `fit` cannot
    change stateless operations with a seed of a layer's own, and functions that were traced earlier and belong to no
    layer or to a SavedModel. If such noise has one seed on all ranks, it is the same on all.

    Args:
      model: a built Keras model. If some of its layers compute in float16, the loss is scaled (see `loss_scale`).
      x, y: the training set, arrays [N, ...] that are the same on every rank.
      epochs: number of epochs; `run.max_steps` may end the training earlier.
      batch_size: examples in one step of this rank.
      optimizer: a Keras optimiser, such as `methods.ivon.IVON`; None is Adam (Kingma and Ba 2015) with a learning rate
        of 1e-3. Its learning rate is not scaled by the number of ranks. Make a new optimiser for each call, because it
        keeps a state.
      loss: a `NegativeElbo`, or another object with its methods.
      augment: function that changes the images of a batch at random, such as `data.shift_and_reflect`.
      seed: seed of the order of the examples and of the noise. The initial weights are the model's own.
      run: the folder, checkpoints, callback and other circumstances of this run.

    Returns:
      The `History` of the run, with means over all ranks. After a resumption, rank 0's begins with the earlier rows.

    Raises:
      data.DataError: the training set is too small for the batch size and the world size.
      ValueError: targets and outputs do not match, or the loss is not a mean over examples (see `check.check`).
      FileExistsError, ValueError: the folder holds another run, or a damaged one (see `runs.Checkpoints.open`).
      OSError: a checkpoint cannot be written, or another process uses the folder.
      FloatingPointError: the loss is not finite. The last checkpoint is from an earlier step.
      watchdog.Stopped: a signal asked for a stop. All ranks have ended the same step, and rank 0 has saved it.
      distributed.PeerLost: another rank has ended, or has not answered for too long.
    """
    world, num_examples = run.world, len(x)
    per_epoch = data.steps_per_epoch(num_examples, batch_size, world.size)
    last_step = epochs * per_epoch if run.max_steps is None else min(epochs * per_epoch, run.max_steps)
    checkpoint_every, callback_every = run.checkpoint_every or per_epoch, run.callback_every or per_epoch

    found = check(model, x, y, loss)
    if world.rank == 0:
        warn(found)
    state = State(model, optimizer or keras.optimizers.legacy.Adam(1e-3))
    noise.seed_noise(model, seed, world.rank)
    settings = {"model": model.name, "examples": num_examples, "batch_size": batch_size, "seed": seed}
    if run.folder is not None:
        settings |= {**run.settings, **loss.settings(), **({"augment": True} if augment else {})}
        settings |= getattr(optimizer, "settings", {})
    stoppable, kept = watchdog.stoppable(state.wish), noise.global_seed_kept()
    with run.open(state.checkpoint, settings) as checkpoints, stoppable, kept:
        # Distributed: all ranks start from rank 0's parameters, optimiser state and counters, with noise of their own.
        world.broadcast(state.variables())
        noise.seed_noise(model, seed, world.rank, restart=False)
        step = state.set_step(per_epoch, batch_size * world.size)
        history = checkpoints.history.continued(step // per_epoch, complete=step >= last_step)
        # Rows of another number of ranks count other steps, so between epochs no row is searched for.
        epoch_row = len(history.steps)
        if step % per_epoch:
            epoch_row = history.first_row_after(step // per_epoch * per_epoch)
        if run.callback and step == 0:
            run.callback(0, model, {})

        shard = {"seed": seed, "rank": world.rank, "size": world.size}
        feed = _Feed(x, y, per_epoch, batch_size=batch_size, augment=augment, **shard)
        averages = MovingAverages(model, world)
        noise.seed_operations(model, seed, world.rank, step)
        train, fresh = compile_steps(state, loss, num_examples, per_epoch, world, seed), True
        with bar(None, last_step, model.name, initial=step, disable=not run.progress or world.rank > 0) as ticker:
            while step < last_step:
                epoch, done = divmod(step, per_epoch)
                # A call of the compiled function ends where an epoch, a checkpoint or a callback is due.
                limits = [run.steps_per_call, per_epoch - done, last_step - step]
                count = min(limits + [every - step % every for every in (checkpoint_every, callback_every)])
                # An array, because TensorFlow keeps a tensor of every Python number that it was given.
                place = np.asarray(epoch + done / per_epoch, np.float32)
                batches, began = feed.at(step), time.perf_counter()
                if fresh:
                    traced, fresh = train.get_concrete_function(batches, tf.constant(count), tf.constant(place)), False
                    noise.seed_captured(traced, model, seed, world.rank, step)
                with world.collective():
                    taken, wish = train(batches, tf.constant(count), tf.constant(place))
                    count, stopped = int(taken), bool(wish)
                step += count
                history.note(step, count, time.perf_counter() - began, epoch_row)
                ticker.update(count)

                epoch_ended, ended = step % per_epoch == 0, step == last_step
                saving = checkpoints.kept and (step % checkpoint_every == 0 or ended or stopped)
                calling = run.callback is not None and (step % callback_every == 0 or ended)
                means = state.means() if calling else {}
                if epoch_ended or ended or saving:
                    state.average(world)
                if calling or ended or saving:
                    averages.average()
                if epoch_ended or ended:
                    row = {"epoch": epoch + 1, "step": step, **state.means(), **loss.report(step / per_epoch)}
                    history.epochs.append(row | {"seconds": history.seconds(epoch_row)})
                if epoch_ended:
                    state.clear()
                    epoch_row = len(history.steps)
                if saving:
                    state.epoch.assign(step // per_epoch)
                    state.examples.assign(step % per_epoch * batch_size * world.size)
                    checkpoints.save(step, history)
                if run.callback and calling:
                    run.callback(step, model, means)
                if stopped:
                    raise watchdog.Stopped(f"told to stop, at step {step}: {RESUMABLE if saving else NOTHING}.")
                if saving:
                    checkpoints.between_steps()
    return history


class _Feed:
    """The iterator over this rank's batches. It is renewed only every few epochs, because a new one takes 50 ms."""

    def __init__(self, x, y, per_epoch, **how):
        with tf.device("CPU:0"):  # otherwise the batches would fill a GPU's memory
            # The ranks of a node share what is mapped into memory, so nobody makes a copy of it.
            self.x, self.y = (v if isinstance(v, np.memmap) else tf.convert_to_tensor(v) for v in (x, y))
        self.per_epoch, self.how = per_epoch, how
        self.iterator, self.end = None, None

    def at(self, step):
        """Return the iterator whose next batch is that of `step`; steps come in order."""
        if self.iterator is None or step == self.end:
            epoch, done = divmod(step, self.per_epoch)
            ahead = max(1, 1000 // self.per_epoch)
            self.iterator = iter(data.batches(self.x, self.y, epoch=epoch, epochs=ahead, start_step=done, **self.how))
            self.end = (epoch + ahead) * self.per_epoch
        return self.iterator
