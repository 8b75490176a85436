"""SWAG: a Gaussian around the mean of the weights that stochastic gradient descent visits at a constant rate."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from helpers.inference import is_bayesian
from helpers.inference.posterior import parts_of
from helpers.layers.noise import fold_in, stateless_normal
from helpers.methods.weights import assigned, network_seed, refuse_constraints

import numpy as np
import tf_keras as keras


class SWAG:
    """The posterior of Maddox et al. (2019, arXiv:1902.02476), Algorithm 1, from snapshots of a training run.

        swag = SWAG(model)                     # of a trained model, which is trained on at a constant rate
        fit(model, x, y, optimizer=keras.optimizers.legacy.SGD(1e-2), epochs=2,
            run=Run(callback=swag.collect, callback_every=86))
        p = predict(swag, x_test, 50)

    The first snapshot starts the mean m. After each later one, of weights w, m becomes (n m + w) / (n + 1), n being the
    number of snapshots before, and the column d = w - m is kept, of which only the last `rank` remain. With the
    variances v of all snapshots and K columns D, a network has the weights

        m + sqrt(v / 2) z_1 + D z_2 / sqrt(2 (K - 1)),

    with standard normal numbers z_1 and z_2. With rank 0 this is SWAG-Diagonal, m + sqrt(v) z_1. The choice of the rate
    is the choice of the posterior's width, so choose it on held-out data. A schedule that decays, or an optimiser with
    large steps at its start such as Adam, gives other widths. Collect in one run: a checkpoint does not hold snapshots.

    Args:
      model: a built, deterministic Keras model. Only its trainable variables are drawn.
      rank: the number of columns K, 0 or at least 2.
      start: the step of the run from which snapshots are taken.

    Attributes:
      snapshots: the number of snapshots so far.

    Raises:
      ValueError: the rank is 1 or negative, or the model has Bayesian layers, a constraint, or batch normalisation that
        trains. Its moving averages would belong to other weights than those that are drawn.
    """

    members = None

    def __init__(self, model: keras.Model, rank: int = 20, start: int = 0):
        if rank < 0 or rank == 1:
            raise ValueError(f"expected rank 0 (diagonal) or at least 2, found {rank}")
        if is_bayesian(model):
            raise ValueError(f"{model.name} has Bayesian layers, and so a posterior already. Take its twin.")
        batch_norms = [
            p.name for p in parts_of(model) if isinstance(p, keras.layers.BatchNormalization) and p.trainable
        ]
        if batch_norms:
            raise ValueError(
                f"the moving averages of {batch_norms} belong to other weights than those that SWAG draws. "
                "Use another normalisation, or set trainable = False for these layers before you collect."
            )
        refuse_constraints(model.trainable_variables)
        self.model, self.rank, self.start, self.snapshots = model, rank, start, 0
        self._mean = self._squares = np.zeros(0)
        self._columns: list[np.ndarray] = []

    def collect(self, step: int, model: keras.Model, means: Any = None) -> None:
        """Take a snapshot of the model's weights. This is a callback of `runs.Run`.

        Args:
          step: of the run.
          model: the model that this posterior was made for.
          means: not used.

        Raises:
          ValueError: this is another model.
          FloatingPointError: a weight is not finite.
        """
        if model is not self.model:
            raise ValueError(f"expected the model {self.model.name} that SWAG was made for, found {model.name}")
        if step < self.start:
            return
        # float64, because the variance is a small difference of large numbers.
        weights = np.concatenate([v.numpy().ravel().astype(np.float64) for v in model.trainable_variables])
        if not np.isfinite(weights).all():
            raise FloatingPointError(f"weights are not finite at step {step}. Choose a lower learning rate.")
        if self.snapshots == 0:
            self._mean, self._squares = weights, np.zeros_like(weights)
        else:
            before = weights - self._mean
            self._mean = self._mean + before / (self.snapshots + 1)
            column = weights - self._mean
            self._squares = self._squares + before * column  # Welford (1962)
            self._columns = [*self._columns, column.astype(np.float32)][-self.rank :] if self.rank else []
        self.snapshots += 1

    def moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (mean [P], variances [P], columns [K, P]) of the snapshots of P weights.

        Raises:
          ValueError: there are fewer than three snapshots, or two with rank 0.
        """
        needed = 3 if self.rank else 2
        if self.snapshots < needed:
            raise ValueError(
                f"SWAG has {self.snapshots} snapshots and needs at least {needed}. Train with "
                "run=Run(callback=swag.collect, callback_every=...) first."
            )
        columns = np.stack(self._columns) if self.rank else np.zeros([0, len(self._mean)], np.float32)
        return self._mean, self._squares / self.snapshots, columns

    @contextmanager
    def fixed(self, seed: int, number: int) -> Iterator[keras.Model]:
        """Yield the model with the weights of network `number`."""
        mean, variances, columns = self.moments()
        key = network_seed(seed, number)
        first, second = (
            stateless_normal(fold_in(key, place), [size]).numpy()
            for place, size in enumerate((len(mean), len(columns)))
        )
        if len(columns):
            drawn = mean + np.sqrt(variances / 2) * first + second @ columns / np.sqrt(2 * (len(columns) - 1))
        else:
            drawn = mean + np.sqrt(variances) * first
        variables = self.model.trainable_variables
        parts = np.split(drawn, np.cumsum([int(np.prod(v.shape)) for v in variables])[:-1])
        with assigned(variables, [part.reshape(v.shape) for part, v in zip(parts, variables, strict=True)]):
            yield self.model
