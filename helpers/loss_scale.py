"""Dynamic loss scaling, so that small gradients do not vanish in float16."""

from helpers import keras2  # noqa: F401

import tensorflow as tf

INITIAL = 2.0**15
GROWTH_STEPS = 2000  # finite steps in a row after which the scale is doubled, as Keras has it
SMALLEST = 2.0**-24  # no step would be finite with a smaller one


def needed(model):
    """Whether any layer of `model` computes in float16. bfloat16 has the exponents of float32 and needs no scale."""
    return any(getattr(part, "compute_dtype", None) == "float16" for part in (model, *model.submodules))


class LossScale(tf.Module):
    """The factor by which the loss is multiplied, and the gradients divided (Micikevicius et al. 2018, section 3.2).

    It is a power of two, so neither rounds. A step whose gradients overflow is left out: parameters and the optimiser's
    slots stay, and the scale is halved. The step counts all the same, as do the optimiser's iterations, so that
    checkpoints, schedules and the order of examples do not depend on it. Gradients are judged after the all-reduce, so
    all ranks judge alike.
    """

    def __init__(self):
        super().__init__()
        self.scale = tf.Variable(INITIAL, trainable=False)
        self.finite_steps = tf.Variable(0, dtype=tf.int64, trainable=False)

    def apply(self, optimizer, gradients, parameters):
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

    def check(self):
        """Stop a run of which no step is taken any more.

        Raises:
          FloatingPointError: the scale is below `SMALLEST`.
        """
        if self.scale < SMALLEST:
            raise FloatingPointError(
                "the gradients are not finite at any loss scale, so steps are left out: try a lower learning rate, or"
                " --mixed_precision=bfloat16"
            )
