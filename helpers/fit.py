"""The training loop, on one rank or on many."""

import time
from collections.abc import Callable

from helpers import data, elbo, loss_scale
from helpers.checkpoints import History
from helpers.distributed import ALONE, World, watchdog
from helpers.layers import seed_noise
from helpers.progress import bar
from helpers.runs import Run

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
    of N * b.

    Args:
      model: a built Keras model. If some of its layers compute in float16, the loss is scaled (see `loss_scale`).
      x, y: the training set, arrays [N, ...] that are the same on every rank.
      epochs: number of epochs; `run.max_steps` may end the training earlier.
      batch_size: examples in one step of this rank.
      optimizer: a Keras optimiser; None is Adam (Kingma and Ba 2015) with a learning rate of 1e-3. Its learning rate is
        not scaled by the number of ranks.
      loss: a `NegativeElbo`, or another object with its methods.
      augment: function that changes the images of a batch at random, such as `data.shift_and_reflect`.
      seed: seed of the order of the examples and of the weight noise. The initial weights are the model's own.
      run: the folder, checkpoints, callback and other circumstances of this run.

    Returns:
      The `History` of the run, with means over all ranks. After a resumption, rank 0's begins with the earlier rows.

    Raises:
      data.DataError: the training set is too small for the batch size and the world size.
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

    state = State(model, optimizer or keras.optimizers.legacy.Adam(1e-3))
    seed_noise(model, seed, world.rank)
    settings = {"model": model.name, "examples": num_examples, "batch_size": batch_size, "seed": seed}
    settings |= {**run.settings, **loss.settings(), **({"augment": True} if augment else {})}
    with run.open(state.checkpoint, settings) as checkpoints, watchdog.stoppable(state.wish):
        # Distributed: all ranks start from rank 0's parameters, optimiser state and counters, with noise of their own.
        world.broadcast(state.variables())
        seed_noise(model, seed, world.rank, restart=False)
        step = state.set_step(per_epoch, batch_size * world.size)
        history = checkpoints.history.continued(step // per_epoch, complete=step >= last_step)
        epoch_row = history.first_row_after(step // per_epoch * per_epoch)
        if run.callback and step == 0:
            run.callback(0, model, {})

        shard = {"seed": seed, "rank": world.rank, "size": world.size}
        feed = _Feed(x, y, per_epoch, batch_size=batch_size, augment=augment, **shard)
        train = compile_steps(state, loss, num_examples, per_epoch, world)
        with bar(None, last_step, model.name, initial=step, disable=not run.progress or world.rank > 0) as ticker:
            while step < last_step:
                epoch, done = divmod(step, per_epoch)
                # A call of the compiled function ends where an epoch, a checkpoint or a callback is due.
                limits = [run.steps_per_call, per_epoch - done, last_step - step]
                count = min(limits + [every - step % every for every in (checkpoint_every, callback_every)])
                # An array, because TensorFlow keeps a tensor of every Python number that it was given.
                place = np.asarray(epoch + done / per_epoch, np.float32)
                batches, began = feed.at(step), time.perf_counter()
                with world.collective():
                    taken, wish = train(batches, tf.constant(count), tf.constant(place))
                    count, stopped = int(taken), bool(wish)
                step += count
                history.note(step, count, time.perf_counter() - began, epoch_row)
                ticker.update(count)

                epoch_ended, ended = step % per_epoch == 0, step == last_step
                saving = checkpoints.kept and (step % checkpoint_every == 0 or ended or stopped)
                calling = run.callback and (step % callback_every == 0 or ended)
                means = state.means() if calling else {}
                if epoch_ended or ended or saving:
                    state.average(world)
                if epoch_ended or ended:
                    row = {"epoch": epoch + 1, "step": step, **state.means(), **loss.report(step / per_epoch)}
                    history.epochs.append(row | {"seconds": history.seconds(epoch_row)})
                if epoch_ended:
                    state.totals.assign(tf.zeros_like(state.totals))
                    epoch_row = len(history.steps)
                if saving:
                    state.epoch.assign(step // per_epoch)
                    state.examples.assign(step % per_epoch * batch_size * world.size)
                    checkpoints.save(step, history)
                if calling:
                    run.callback(step, model, means)
                if stopped:
                    raise watchdog.Stopped(f"told to stop, at step {step}: {RESUMABLE if saving else NOTHING}.")
                if saving:
                    checkpoints.between_steps()
    return history


def stepper(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    batch_size: int = 64,
    steps: int = 10,
    loss: elbo.NegativeElbo = elbo.NegativeElbo(),  # noqa: B008
    world: World = ALONE,
) -> Callable[[], tuple]:
    """Return a function that takes `steps` training steps at each call, the same steps as `fit`'s, to time them."""
    state = State(model, keras.optimizers.legacy.Adam(1e-3))
    per_epoch = data.steps_per_epoch(len(x), batch_size, world.size)
    train = compile_steps(state, loss, len(x), per_epoch, world)
    epoch = data.batches(x, y, batch_size=batch_size, seed=0, epoch=0, rank=world.rank, size=world.size)
    batches = iter(epoch.repeat())
    return lambda: train(batches, tf.constant(steps), tf.constant(0.0))


class State:
    """All that a run consists of, which is what a checkpoint holds.

    Attributes:
      epoch, examples: whole epochs done, and examples of all ranks seen in the present one.
      totals: sums over the present epoch so far: steps, loss, NLL, KL, accuracy (NaN for real-valued targets).
      wish: not 0 if this rank was asked to stop; the watchdog sets it from its own thread.
    """

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer):
        self.model, self.optimizer = model, optimizer
        self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.examples = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.totals = tf.Variable(tf.zeros([5]), trainable=False)
        self.wish = tf.Variable(0.0, trainable=False)
        # The optimiser's variables have to exist before a checkpoint is restored and before the broadcast.
        create = optimizer.build if hasattr(optimizer, "build") else optimizer._create_all_weights
        create(model.trainable_variables)
        optimizer.iterations.assign(0)
        counters = {"epoch": self.epoch, "examples": self.examples, "totals": self.totals}
        self.loss_scale = loss_scale.for_model(model)
        if self.loss_scale.variables:
            counters["loss_scale"] = self.loss_scale
        self.checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, **counters)

    def variables(self) -> list:
        """Return what the ranks must have in common before the first step, with how much noise was drawn."""
        noise = [layer.generator.state for layer in self.model.submodules if hasattr(layer, "generator")]
        counters = [self.epoch, self.examples, self.totals, *self.loss_scale.variables]
        return [*self.model.variables, *self.optimizer.variables(), *counters, *noise]

    def set_step(self, per_epoch: int, global_batch: int) -> int:
        """Return the step at which this run stands, and give it to the optimiser, whose schedule reads it.

        A checkpoint counts examples, so another number of ranks can resume a run where it stood.
        """
        step = int(self.epoch) * per_epoch + int(self.examples) // global_batch
        self.optimizer.iterations.assign(step)
        return step

    def average(self, world: World) -> None:
        """Average the epoch's sums over the ranks.

        Raises:
          FloatingPointError: the loss is not finite, or no step is taken any more; on every rank alike.
        """
        self.totals.assign(world.mean(self.totals))
        loss = float(self.totals[1])
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss}; try a lower learning rate")
        self.loss_scale.check()

    def means(self) -> dict:
        """Return the averages over the steps of the epoch so far, as a part of a row of the history."""
        steps, *sums = (float(total) for total in self.totals.numpy())
        row = {name: total / steps for name, total in zip(("loss", "nll", "kl", "accuracy"), sums, strict=True)}
        return {name: mean for name, mean in row.items() if name != "accuracy" or not np.isnan(mean)}


def compile_steps(state: State, loss: Callable, num_examples: int, per_epoch: int, world: World) -> Callable:
    """Compile the function that takes training steps inside TensorFlow's graph.

    It is called with an iterator over batches, a number of steps and the epochs done so far. It ends early, after the
    same step on all ranks, if `state.wish` is set on any rank. It returns how many steps it took, and the mean of the
    wishes.
    """
    model, parameters = state.model, state.model.trainable_variables

    @tf.function(reduce_retracing=True)
    def train(batches, count, epoch):
        i, wish = 0, tf.constant(0.0)
        while i < count and wish == 0.0:
            x, y = next(batches)
            with tf.GradientTape() as tape:
                parts = loss(model, x, y, num_examples, epoch + tf.cast(i, tf.float32) / per_epoch)
                scaled = parts.loss * state.loss_scale.scale
            gradients = tape.gradient(scaled, parameters)
            # Distributed: the wish to stop travels with the gradients, because its own message would cost as much.
            *gradients, wish = world.average([*gradients, state.wish.read_value()])
            state.loss_scale.apply(state.optimizer, gradients, parameters)
            accuracy = float("nan")
            if y.dtype.is_integer:
                accuracy = tf.reduce_mean(tf.cast(tf.argmax(parts.outputs, -1, y.dtype) == y, tf.float32))
            state.totals.assign_add([1.0, parts.loss, parts.nll, parts.kl, accuracy])
            i += 1
        return i, wish

    return train


class _Feed:
    """The iterator over this rank's batches. It is renewed only every few epochs, because a new one takes 50 ms."""

    def __init__(self, x, y, per_epoch, **how):
        with tf.device("CPU:0"):  # otherwise the batches would fill a GPU's memory
            self.x, self.y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
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
