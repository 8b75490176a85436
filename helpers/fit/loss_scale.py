"""Dynamic loss scaling, which keeps small gradients from vanishing in float16."""

from helpers.layers.parts import modules_of

import tensorflow as tf
import tf_keras as keras

INITIAL = 2.0**15
GROWTH_STEPS = 2000  # finite steps in a row after which the scale is doubled, as in Keras
SMALLEST = 2.0**-24  # with a smaller scale no step would be finite


class NoLossScale:
    """The scale of 1 for a model that does not compute in float16."""

    scale, variables = 1.0, ()

    def apply(self, optimizer: keras.optimizers.Optimizer, gradients: list, parameters: list) -> None:
        """Apply the gradients."""
        optimizer.apply_gradients(zip(gradients, parameters, strict=True))

    def check(self) -> None:
        """Do nothing, because no step is left out."""


class LossScale(tf.Module):
    """The factor by which the loss is multiplied and the gradients are divided (Micikevicius et al. 2018, section 3.2).

    It is a power of two, so neither operation rounds. A step whose gradients overflow is left out: the parameters and
    the optimiser's slots stay, and the scale is halved. The step and the optimiser's iteration count all the same, so
    checkpoints, schedules and the order of examples do not depend on it. The gradients are judged after the
    all-reduce, so all ranks come to the same decision.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = tf.Variable(INITIAL, trainable=False)
        self.finite_steps = tf.Variable(0, dtype=tf.int64, trainable=False)

    def apply(self, optimizer: keras.optimizers.Optimizer, gradients: list, parameters: list) -> None:
        """Apply the gradients of the loss times `scale`, unless they overflow, and adapt the scale."""
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])

        def step():
            inverse = 1.0 / self.scale
            optimizer.apply_gradients([(g * inverse, v) for g, v in zip(gradients, parameters, strict=True)])
            full = self.finite_steps.assign_add(1) % GROWTH_STEPS == 0
            return self.scale.assign(tf.where(full, 2.0 * self.scale, self.scale))

        def leave_out():
            optimizer.iterations.assign_add(1)
            self.finite_steps.assign(0)
            return self.scale.assign(0.5 * self.scale)

        tf.cond(finite, step, leave_out)

    def check(self) -> None:
        """Stop a run in which every step is left out.

        Raises:
          FloatingPointError: the scale is below `SMALLEST`.
        """
        if self.scale < SMALLEST:
            raise FloatingPointError(
                "the gradients are not finite at any loss scale, so every step is left out. Try a lower learning"
                " rate, or --mixed_precision=bfloat16"
            )


def for_model(model: keras.Model) -> LossScale | NoLossScale:
    """Return a `LossScale` if any layer of `model` computes in float16, else a `NoLossScale`.

    bfloat16 has the exponents of float32 and needs no scale.
    """
    half = any(getattr(part, "compute_dtype", None) == "float16" for part in modules_of(model))
    return LossScale() if half else NoLossScale()
