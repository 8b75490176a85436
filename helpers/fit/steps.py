"""The compiled training step, and all that a run consists of."""

import contextlib
import warnings
from collections.abc import Callable

from helpers import data, elbo
from helpers.distributed import ALONE, World
from helpers.fit import loss_scale
from helpers.inference import is_bayesian
from helpers.layers import noise
from helpers.layers.divergence import is_regularised

import numpy as np
import tensorflow as tf
import tf_keras as keras


class State:
    """All that a run consists of, which is what a checkpoint holds.

    Attributes:
      epoch, examples: whole epochs done, and examples of all ranks seen in the present one.
      totals: sums over the present epoch so far: steps, loss, NLL, KL, accuracy (NaN for real-valued targets).
      regulariser: the sum of what regularisers have added to the loss; None for a model without regularisers.
      wish: not 0 if this rank was asked to stop; the watchdog sets it from its own thread.
    """

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer):
        self.model, self.optimizer = model, optimizer
        self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.examples = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.totals = tf.Variable(tf.zeros([5]), trainable=False)
        self.wish = tf.Variable(0.0, trainable=False)
        if not hasattr(optimizer, "apply_gradients") or isinstance(optimizer, type):
            raise TypeError(f"expected an optimiser such as keras.optimizers.legacy.Adam(1e-3), found {optimizer!r}")
        if hasattr(optimizer, "sampled") and is_bayesian(model):
            raise ValueError(
                f"{type(optimizer).__name__} learns a posterior of all weights, but {model.name} has Bayesian layers "
                "with a posterior of their own. Give it a deterministic model, or train with another optimiser."
            )
        # The optimiser's variables have to exist before a checkpoint is restored and before the broadcast.
        create = optimizer.build if hasattr(optimizer, "build") else optimizer._create_all_weights
        create(model.trainable_variables)
        optimizer.iterations.assign(0)
        counters = {"epoch": self.epoch, "examples": self.examples, "totals": self.totals}
        self.loss_scale = loss_scale.for_model(model)
        if self.loss_scale.variables:
            counters["loss_scale"] = self.loss_scale
        # It has a variable of its own, so that checkpoints of models without regularisers are as they always were.
        self.regulariser = tf.Variable(0.0, trainable=False) if is_regularised(model) else None
        if self.regulariser is not None:
            counters["regulariser"] = self.regulariser
        self.checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, **counters)

    def variables(self) -> list:
        """Return what the ranks must have in common before the first step, with how much noise was drawn."""
        streams = [generator.state for generator in noise.saved_generators(self.model)]
        counters = [self.epoch, self.examples, self.totals, *self.loss_scale.variables]
        counters += [] if self.regulariser is None else [self.regulariser]
        return [*self.model.variables, *self.optimizer.variables(), *counters, *streams]

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
        if self.regulariser is not None:
            self.regulariser.assign(world.mean(self.regulariser))
        loss = float(self.totals[1])
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss}; try a lower learning rate")
        self.loss_scale.check()

    def means(self) -> dict:
        """Return the averages over the steps of the epoch so far, as a part of a row of the history."""
        steps, *sums = (float(total) for total in self.totals.numpy())
        row = {name: total / steps for name, total in zip(("loss", "nll", "kl", "accuracy"), sums, strict=True)}
        if self.regulariser is not None:
            row["regulariser"] = float(self.regulariser) / steps
        return {name: mean for name, mean in row.items() if name != "accuracy" or not np.isnan(mean)}

    def clear(self) -> None:
        """Begin the sums of a new epoch."""
        self.totals.assign(tf.zeros_like(self.totals))
        if self.regulariser is not None:
            self.regulariser.assign(0.0)


def compile_steps(
    state: State, loss: Callable, num_examples: int, per_epoch: int, world: World, seed: int = 0
) -> tf.types.experimental.PolymorphicFunction:
    """Compile the function that takes training steps inside TensorFlow's graph.

    It is called with an iterator over batches, a number of steps and the epochs done so far. It ends early, after the
    same step on all ranks, if `state.wish` is set on any rank. It returns how many steps it took, and the mean of the
    wishes.

    An optimiser may have `sampled(key)`, a context in which the parameters hold a draw of the weights, `draws`, the
    number of these in a step, and `estimates(gradients, parameters, what sampled yields)`, which returns what ranks and
    draws average in place of gradients, and what `apply_gradients` takes with each of them.
    """
    model, optimizer, parameters = state.model, state.optimizer, state.model.trainable_variables
    real = getattr(loss, "nll", None) is elbo.gaussian_nll  # whose targets may be whole numbers
    draws = getattr(optimizer, "draws", 1) if hasattr(optimizer, "sampled") else 1

    def sampled(draw):
        if not hasattr(optimizer, "sampled"):
            return contextlib.nullcontext()
        return optimizer.sampled(noise.step_key(seed, world.rank * draws + draw, optimizer.iterations))

    def one_draw(x, y, epoch, draw):
        with sampled(draw) as drawn:
            with tf.GradientTape() as tape:
                parts = loss(model, x, y, num_examples, epoch)
                scaled = parts.loss * state.loss_scale.scale
            gradients, moved = _found(tape.gradient(scaled, parameters), parameters, world)
        if drawn is not None:
            gradients, moved = optimizer.estimates(gradients, moved, drawn)
        accuracy = float("nan") if real else elbo.accuracy(y, parts.outputs)
        sums = [1.0, parts.loss, parts.nll, parts.kl, accuracy, parts.regulariser]
        return moved, (gradients, [tf.cast(part, tf.float32) for part in sums])

    @tf.function(reduce_retracing=True)
    def train(batches, count, epoch):
        i, wish = 0, tf.constant(0.0)
        while i < count and wish == 0.0:
            x, y = next(batches)
            found, moved = [], []
            for draw in range(draws):  # in Python
                moved, of_draw = one_draw(x, y, epoch + tf.cast(i, tf.float32) / per_epoch, draw)
                found.append(of_draw)
            gradients, sums = _mean(found)
            # Distributed: the wish to stop travels with the gradients, because its own message would cost as much.
            *gradients, wish = world.average([*gradients, state.wish.read_value()])
            state.loss_scale.apply(optimizer, gradients, moved)
            state.totals.assign_add(sums[:5])
            if state.regulariser is not None:
                state.regulariser.assign_add(sums[5])
            i += 1
        return i, wish

    return train


@tf.autograph.experimental.do_not_convert
def _mean(found: list) -> tuple:
    """Return the mean over draws of each tensor."""
    return found[0] if len(found) == 1 else tf.nest.map_structure(lambda *parts: tf.add_n(parts) / len(parts), *found)


@tf.autograph.experimental.do_not_convert
def _found(gradients: list, parameters: list, world: World) -> tuple[list, list]:
    """Return the gradients that there are and their parameters. The loss does not depend on the others, which stay.

    Raises:
      ValueError: the loss depends on no parameter.
    """
    found = [(g, v) for g, v in zip(gradients, parameters, strict=True) if g is not None]
    names = [v.name for g, v in zip(gradients, parameters, strict=True) if g is None]
    if not found:
        raise ValueError("The loss depends on none of the model's trainable variables, so there is nothing to train.")
    if names and world.rank == 0:
        warnings.warn(
            f"The loss does not depend on the trainable variables {', '.join(names)}, so training leaves them as they "
            "are. Set trainable=False or remove them, or use them in the loss.",
            stacklevel=2,
        )
    return [g for g, _ in found], [v for _, v in found]


def stepper(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    batch_size: int = 64,
    steps: int = 10,
    optimizer: keras.optimizers.Optimizer | None = None,
    loss: elbo.NegativeElbo = elbo.NegativeElbo(),  # noqa: B008
    world: World = ALONE,
) -> Callable[[], tuple]:
    """Return a function that takes `steps` training steps at each call, the same steps as `fit`'s, to time them."""
    state = State(model, optimizer or keras.optimizers.legacy.Adam(1e-3))
    per_epoch = data.steps_per_epoch(len(x), batch_size, world.size)
    train = compile_steps(state, loss, len(x), per_epoch, world)
    epoch = data.batches(x, y, batch_size=batch_size, seed=0, epoch=0, rank=world.rank, size=world.size)
    batches = iter(epoch.repeat())
    return lambda: train(batches, tf.constant(steps), tf.constant(0.0))
