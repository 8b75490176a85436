"""The training loop: one rank or many, history, checkpoint, resume."""

import contextlib
import time
from typing import NamedTuple

from helpers import data, loss_scale
from helpers.distributed import watchdog as watch
from helpers.elbo import categorical_nll, kl_weight, negative_elbo
from helpers.layers.bayesian import seed_noise
from helpers.progress import bar
from helpers.runs import Store

import numpy as np
import tensorflow as tf
import tf_keras as keras


class History(NamedTuple):
    """epochs: a dict for each epoch, means over it; steps: one for each call of the compiled loop, in long runs
    for several, `resumed` of them by the run that this one resumed."""

    epochs: list
    steps: list
    resumed: int


def fit(
    model,
    x,
    y,
    *,
    epochs=1,
    max_steps=None,
    batch_size=64,
    learning_rate=1e-3,
    kl_final=1.0,
    kl_warmup_epochs=0.0,
    nll=categorical_nll,
    augment=False,
    seed=0,
    world=None,
    half_precision=False,
    steps_per_call=10,
    folder=None,
    settings=None,
    resume=False,
    checkpoint_every=None,
    callback=None,
    callback_every=None,
    on_checkpoint=None,
    progress=True,
):
    """Train `model` on the negative ELBO with Adam (Kingma and Ba 2015).

    Call it alone, or with the same arguments on every rank of a `world`: then each rank takes its shard of
    each epoch's order and gradients are averaged, so that N ranks at batch size b follow one rank at N*b.

    Args:
      model: a Keras model, built. If layers of it compute in float16, the loss is scaled, see `loss_scale`.
      x, y: the training set [N, ...], the same on every rank.
      epochs, max_steps: stop at whichever comes first; steps are counted on each rank.
      batch_size: examples a step on this rank.
      learning_rate: float or Keras schedule; not scaled by the number of ranks.
      kl_final, kl_warmup_epochs: see `elbo.kl_weight`.
      nll: function of (y, outputs) to a scalar. Accuracy is recorded where `y` holds integers.
      augment: shift and reflect the images at random, see `data.shift_and_reflect`.
      seed: of the order of examples and of the weight noise; initial weights are the model's own.
      world: `distributed.World`, or None for one rank without Horovod.
      half_precision: send gradients as float16.
      steps_per_call: steps inside one call of the compiled loop; a call costs about a millisecond.
      folder: where rank 0 keeps the run, see `store.Store`; None keeps nothing.
      settings: dict of what a resumption must have in common besides, such as where the priors come from.
      resume: go on from the folder's last checkpoint, if there is one.
      checkpoint_every, callback_every: in steps; an epoch where None. Both also at the end.
      callback: called as callback(step, model, means) with this rank's means over the epoch so far (loss,
        nll, kl, accuracy); before the first step too, with no means.
      on_checkpoint: called without arguments on every rank after each checkpoint.
      progress: show a bar on rank 0.

    Returns:
      `History` with means over all ranks. After a resume, rank 0's begins with the earlier run's rows.

    Raises:
      data.DataError: the training set is too small for the batch size and world size.
      FileExistsError, ValueError: the folder holds another run, or a damaged one; see `Store.open`.
      OSError: a checkpoint cannot be written, or another process's run uses the folder.
      FloatingPointError: the loss is not finite. The last checkpoint is from before.
      watch.Stopped: a signal asked for it, see `helpers.watch`; all ranks have ended the same step, and rank 0 has
        saved its checkpoint.
      watch.PeerLost: another rank has ended, or has not answered for too long.
    """
    rank, size = (world.rank, world.size) if world else (0, 1)
    per_epoch = data.steps_per_epoch(len(x), batch_size, size)
    last_step = epochs * per_epoch if max_steps is None else min(epochs * per_epoch, max_steps)
    checkpoint_every, callback_every = checkpoint_every or per_epoch, callback_every or per_epoch
    history = History([], [], 0)
    state = _State(model, keras.optimizers.legacy.Adam(learning_rate))
    seed_noise(model, seed, rank)
    augmentation = data.shift_and_reflect if augment else None
    store, together = None, contextlib.nullcontext
    if folder is not None:
        own = {"model": model.name, "examples": len(x), "batch_size": batch_size, "seed": seed}
        own |= {"kl_final": kl_final, "kl_warmup_epochs": kl_warmup_epochs}
        settings = (settings or {}) | own | ({"augment": True} if augment else {})
        store = Store(folder, state.checkpoint, settings)
        _on_first_rank(lambda: store.open(resume, history), world)
    if size > 1:
        from helpers import distributed

        together = distributed.meeting
        distributed.broadcast(state.variables())
        seed_noise(model, seed, rank, restart=False)
    # Counted in examples, so that another number of ranks can take up a run where it stood.
    step = int(state.epoch) * per_epoch + int(state.examples) // (batch_size * size)
    rows = history.epochs
    if step < last_step:
        # A run that stopped inside an epoch has left a row for that part; the whole epoch's comes now.
        rows = [row for row in rows if row["epoch"] <= int(state.epoch)]
    history = History(rows, history.steps, len(history.steps))
    # By which a schedule of the learning rate goes; it too was counted in steps of as many ranks as there were.
    state.optimizer.iterations.assign(step)
    begun = sum(call["step"] <= step // per_epoch * per_epoch for call in history.steps)  # calls before this epoch

    loop = _compiled_loop(state, nll, len(x), kl_final, kl_warmup_epochs, per_epoch, world, half_precision)
    batches, refill = None, None
    with tf.device("CPU:0"):  # where batches are gathered; by default they would fill a GPU's memory
        x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
    if callback and step == 0:
        callback(0, model, {})
    with (
        store or contextlib.nullcontext(),
        watch.stoppable(state.wish),
        bar(total=last_step, initial=step, desc=model.name, disable=not progress or rank > 0) as ticker,
    ):
        while step < last_step:
            epoch, done = divmod(step, per_epoch)
            if batches is None or step == refill:
                ahead = max(1, 1000 // per_epoch)
                where = {"rank": rank, "size": size, "start_step": done, "augment": augmentation}
                some = data.batches(x, y, batch_size=batch_size, seed=seed, epoch=epoch, epochs=ahead, **where)
                batches, refill = iter(some), (epoch + ahead) * per_epoch
            limits = [steps_per_call, per_epoch - done, last_step - step]
            count = min(limits + [every - step % every for every in (checkpoint_every, callback_every)])
            # An array, as TensorFlow keeps every Python number that it has made a tensor of.
            progressed = np.asarray(epoch + done / per_epoch, np.float32)
            began = time.perf_counter()
            with together():
                taken, stopped = loop(batches, tf.constant(count), tf.constant(progressed))
                count, stopped = int(taken), bool(stopped)
            seconds = time.perf_counter() - began
            step += count
            _note(history, begun, step, count, seconds)
            ticker.update(count)

            epoch_ended, ended = step % per_epoch == 0, step == last_step
            saving = store and (step % checkpoint_every == 0 or ended or stopped)
            calling = callback and (step % callback_every == 0 or ended)
            means = state.means() if calling else None
            if epoch_ended or ended or saving:
                state.average(world)
                row = {"epoch": epoch + 1, "step": step, **state.means()}
            if epoch_ended or ended:
                row["kl_weight"] = float(kl_weight(step / per_epoch, kl_warmup_epochs, kl_final))
                row["seconds"] = sum(call["seconds"] for call in history.steps[begun:])
                history.epochs.append(row)
            if epoch_ended:
                state.totals.assign(tf.zeros_like(state.totals))
                begun = len(history.steps)
            if saving:
                state.epoch.assign(step // per_epoch)
                state.examples.assign(step % per_epoch * batch_size * size)
                _on_first_rank(lambda step=step: store.save(step, history), world)
            if calling:
                callback(step, model, means)
            if stopped:
                kept = "its checkpoint is saved, and the same command with --resume goes on from there"
                raise watch.Stopped(f"told to stop, at step {step}: {kept if store else 'nothing is kept'}.")
            if saving and on_checkpoint:
                on_checkpoint()
    return history


def _note(history, begun, step, count, seconds):
    """Add a call of the loop to the rows. Millions of steps must fit in memory and in each checkpoint: so a row
    grows to a thousandth of the steps before it, but for a job's first call, which compiles, and not into another
    epoch (from row `begun`)."""
    rows = history.steps
    if len(rows) > max(begun, history.resumed + 1) and rows[-1]["steps"] < step / 1000:
        last = rows.pop()
        count, seconds = last["steps"] + count, last["seconds"] + seconds
    rows.append({"step": step, "steps": count, "seconds": seconds})


def stepper(model, x, y, *, batch_size=64, steps=10, nll=categorical_nll, world=None, half_precision=False):
    """A function that takes `steps` training steps at each call, the same as `fit`'s: for timing them."""
    rank, size = (world.rank, world.size) if world else (0, 1)
    state = _State(model, keras.optimizers.legacy.Adam(1e-3))
    per_epoch = data.steps_per_epoch(len(x), batch_size, size)
    loop = _compiled_loop(state, nll, len(x), 1.0, 0.0, per_epoch, world, half_precision)
    epoch = data.batches(x, y, batch_size=batch_size, seed=0, epoch=0, rank=rank, size=size)
    batches = iter(epoch.repeat())
    return lambda: loop(batches, tf.constant(steps), tf.constant(0.0))


class _State:
    """All that a run is made of, and what a checkpoint therefore holds."""

    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.examples = tf.Variable(0, dtype=tf.int64, trainable=False)
        # Sums over the epoch so far: steps, loss, nll, kl, accuracy (NaN for real-valued targets).
        self.totals = tf.Variable(tf.zeros([5]), trainable=False)
        self.wish = tf.Variable(0.0, trainable=False)  # to stop; `watch` sets it from its own thread
        # A step with gradients of zero makes Adam's slots and leaves parameters and slots as they are.
        optimizer.apply_gradients([(tf.zeros_like(v), v) for v in model.trainable_variables])
        optimizer.iterations.assign(0)
        counters = {"epoch": self.epoch, "examples": self.examples, "totals": self.totals}
        self.loss_scale = loss_scale.LossScale() if loss_scale.needed(model) else None
        counters |= {"loss_scale": self.loss_scale} if self.loss_scale else {}
        self.checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, **counters)

    def variables(self):
        """What ranks must have in common before the first step; of the noise, how much was drawn."""
        noise = [layer.generator.state for layer in self.model.submodules if hasattr(layer, "generator")]
        own = [self.epoch, self.examples, self.totals]
        scale = self.loss_scale.variables if self.loss_scale else ()
        return [*self.model.variables, *self.optimizer.variables(), *own, *noise, *scale]

    def apply(self, gradients):
        """Change the parameters by these gradients, which are those of the scaled loss where there is a scale."""
        parameters = self.model.trainable_variables
        if self.loss_scale:
            self.loss_scale.apply(self.optimizer, gradients, parameters)
        else:
            self.optimizer.apply_gradients(zip(gradients, parameters, strict=True))

    def average(self, world):
        """Average the epoch's sums over ranks, and on every rank alike stop if they are not finite."""
        if world and world.size > 1:
            from helpers import distributed

            self.totals.assign(distributed.mean(self.totals))
        loss = float(self.totals[1])
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss}; try a lower learning rate")
        if self.loss_scale:
            self.loss_scale.check()

    def means(self):
        """The epoch so far, averaged over its steps: a dict for the history."""
        steps, *sums = (float(total) for total in self.totals.numpy())
        row = {name: total / steps for name, total in zip(("loss", "nll", "kl", "accuracy"), sums, strict=True)}
        return {name: mean for name, mean in row.items() if name != "accuracy" or not np.isnan(mean)}


def _compiled_loop(state, nll, num_examples, kl_final, kl_warmup_epochs, per_epoch, world, half_precision):
    """The function that takes `count` training steps inside TensorFlow's graph.

    It ends early, after the same step on all ranks, if `state.wish` is set on any. It returns how many steps it took
    and the mean of the wishes.
    """
    model, parameters = state.model, state.model.trainable_variables
    if world and world.size > 1:
        from helpers import distributed

    @tf.function(reduce_retracing=True)
    def loop(batches, count, epoch):
        i, wish = 0, tf.constant(0.0)
        while i < count and wish == 0.0:
            x, y = next(batches)
            weight = kl_weight(epoch + tf.cast(i, tf.float32) / per_epoch, kl_warmup_epochs, kl_final)
            with tf.GradientTape() as tape:
                loss, likelihood, kl, outputs = negative_elbo(model, x, y, num_examples, weight, nll)
                scaled = loss * state.loss_scale.scale if state.loss_scale else loss
            gradients = tape.gradient(scaled, parameters)
            wish = state.wish.read_value()
            if world and world.size > 1:
                # The wish travels with the gradients because a message of its own would cost as much time as they do.
                *gradients, wish = distributed.average([*gradients, wish], half_precision)
            state.apply(gradients)
            accuracy = float("nan")
            if y.dtype.is_integer:
                accuracy = tf.reduce_mean(tf.cast(tf.argmax(outputs, -1, y.dtype) == y, tf.float32))
            state.totals.assign_add([1.0, loss, likelihood, kl, accuracy])
            i += 1
        return i, wish

    return loop


class RankFailure(RuntimeError):
    """Another rank has failed; its message."""


def agree(failure, world):
    """Make one rank's failure every rank's, so that none waits in an all-reduce for one that is gone.

    Args:
      failure: this rank's exception, or None if all is well here.
      world: `distributed.World` or None.

    Raises:
      Exception: `failure`, where there is one; elsewhere a `RankFailure` with the lowest failing rank's.
    """
    failures = []
    if world and world.size > 1:
        from helpers import distributed

        failures = distributed.gather_objects(None if failure is None else str(failure))
    if failure is not None:
        raise failure
    for rank, message in enumerate(failures):
        if message is not None:
            raise RankFailure(f"rank {rank}: {message}")


def _on_first_rank(action, world):
    """Do what only rank 0 does; if it fails there, every rank stops with its message."""
    failure = None
    if not world or world.rank == 0:
        try:
            action()
        except Exception as error:
            failure = error
    agree(failure, world)
