"""The variables that layers change while they train, such as the moving averages of batch normalisation."""

from helpers.distributed import World

import numpy as np
import tensorflow as tf
import tf_keras as keras


class MovingAverages:
    """The non-trainable variables of a model, which follow each rank's own examples.

    Moving averages are linear in what they average. So it does not matter how often the ranks average them, and it is
    done only where the model is saved, evaluated or returned. Variables that no rank has changed are not sent.

    Args:
      model: the model, whose variables are equal on all ranks.
      world: the ranks.
    """

    def __init__(self, model: keras.Model, world: World):
        numbers = [v for v in model.non_trainable_variables if v.dtype.is_floating or v.dtype.is_integer]
        self.variables, self.world = numbers if world.size > 1 else [], world
        self.known = [variable.numpy() for variable in self.variables]

    def average(self) -> None:
        """Set each variable to its mean over the ranks, rounded if it is an integer. Every rank calls it."""
        if not self.variables:
            return
        values = [variable.numpy() for variable in self.variables]
        changed = [value.tobytes() != known.tobytes() for value, known in zip(values, self.known, strict=True)]
        places = np.flatnonzero(self.world.mean(np.asarray(changed, np.float64)))
        if not len(places):
            return
        flat = np.concatenate([np.ravel(values[place]).astype(np.float64) for place in places])
        means = np.split(self.world.mean(flat), np.cumsum([values[place].size for place in places])[:-1])
        for place, mean in zip(places, means, strict=True):
            variable = self.variables[place]
            mean = np.rint(mean) if variable.dtype.is_integer else mean
            variable.assign(tf.cast(mean.reshape(variable.shape), variable.dtype))
            self.known[place] = variable.numpy()
