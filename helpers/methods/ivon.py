"""IVON: an optimiser that learns a Gaussian posterior of all weights, with one pass through the network a step."""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from helpers.layers.noise import stateless_normal
from helpers.methods.ivon_posterior import IVONPosterior

import tensorflow as tf
import tf_keras as keras


class IVON(keras.optimizers.Optimizer):
    """Improved variational online Newton, Algorithm 1 of Shen et al. (2024, arXiv:2402.17641).

    The posterior of the weights is N(m, diag(sigma^2)) with sigma^2 = 1 / (lambda (h + delta)). Here m are the model's
    variables, and h estimates the diagonal of the Hessian of the mean NLL. The prior is N(0, 1 / (lambda delta)). With
    lambda = N, IVON minimises the negative ELBO of N examples. Other values give the temperature N / lambda.

    Give it to `helpers.fit.fit` with a model without Bayesian layers. `fit` averages gradients and estimates of the
    Hessian over draws and ranks, so N ranks follow one rank with N draws. The history's NLL is that of the draws, and
    its KL is 0: `posterior(model).kl()` is IVON's. A regulariser of the model counts as a part of the NLL.

    Args:
      learning_rate: alpha / (h_0 + delta), so that the first step is that of SGD; a number > 0 or a schedule of Keras.
      effective_sample_size: lambda > 0, usually the number of training examples.
      beta1, beta2: decay of the means of gradients and of Hessians, in [0, 1).
      hess_init: h_0 > 0, with which h starts.
      weight_decay: delta > 0.
      draws: networks that each rank draws in a step. Each costs one pass.
      clip_radius: limit > 0 of each element of Newton's step before the learning rate. The authors' program has it.

    Raises:
      ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        effective_sample_size: float,
        *,
        beta1: float = 0.9,
        beta2: float = 0.9999,
        hess_init: float = 1.0,
        weight_decay: float = 1e-4,
        draws: int = 1,
        clip_radius: float = math.inf,
    ):
        super().__init__(name="IVON", jit_compile=False)
        given = {"effective_sample_size": effective_sample_size, "hess_init": hess_init, "weight_decay": weight_decay}
        given |= {"clip_radius": clip_radius, "beta1": beta1, "beta2": beta2, "draws": draws}
        for name, value in {**given, **({} if callable(learning_rate) else {"learning_rate": learning_rate})}.items():
            if not (0 <= value < 1 if name.startswith("beta") else value > 0) or name == "draws" and value % 1:
                allowed = "in [0, 1)" if name.startswith("beta") else "> 0" + (" and whole" * (name == "draws"))
                raise ValueError(f"expected {name} {allowed}, found {value}")
        self.draws, self.settings = int(draws), self._no_dependency({name: float(v) for name, v in given.items()})
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.means: list[tf.Variable] = self._no_dependency([])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"learning_rate": self._serialize_hyperparameter(self._learning_rate), **self.settings}

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Create h and g, one vector each for all variables, and lambda and delta, which checkpoints hold as well.

        Raises:
          ValueError: the variables are not all float32 or all float64, or IVON has those of another model.
        """
        if self.means:
            if list(map(id, self.means)) != list(map(id, var_list)):
                raise ValueError("This IVON has the variables of another model. Make a new one for each model.")
            return
        super().build(var_list)
        types = {variable.dtype for variable in var_list}
        if len(types) > 1 or not types <= {tf.float32, tf.float64}:
            names = ", ".join(sorted(kind.name for kind in types))
            raise ValueError(
                f"expected float32 or float64 variables, found {names}. Use a mixed policy for half precision."
            )
        self.means, size = self._no_dependency(list(var_list)), sum(math.prod(v.shape) for v in var_list)
        shapes = {"hess_init": [size], "momentum": [size], "effective_sample_size": [], "weight_decay": []}
        self.hessian, self.momentum, self.sample_size, self.decay = (
            self.add_variable(shape, *types, keras.initializers.Constant(self.settings.get(name, 0.0)), name)
            for name, shape in shapes.items()
        )

    def deviations(self) -> tf.Tensor:
        """Return sigma, one vector for all variables."""
        return tf.math.rsqrt(self.sample_size * (self.hessian + self.decay))

    def shaped(self, flat: tf.Tensor) -> list[tf.Tensor]:
        """Divide a vector into tensors of the variables' shapes."""
        parts = tf.split(flat, [math.prod(mean.shape) for mean in self.means])
        return [tf.reshape(part, mean.shape) for part, mean in zip(parts, self.means, strict=True)]

    @contextmanager
    def sampled(self, key: tf.Tensor) -> Iterator[tf.Tensor]:
        """Let the variables hold the draw theta = m + sigma eps that belongs to a key, an int64 [2]; yield eps / sigma.

        eps are `helpers.layers.noise.stateless_normal` numbers. At the end the variables hold m again.
        """
        means, sigma = [variable.read_value() for variable in self.means], self.deviations()
        noise = stateless_normal(key, self.hessian.shape, self.hessian.dtype)
        try:
            for variable, mean, part in zip(self.means, means, self.shaped(sigma * noise), strict=True):
                variable.assign(mean + part)
            yield noise / sigma
        finally:
            for variable, mean in zip(self.means, means, strict=True):
                variable.assign(mean)

    def estimates(self, gradients: list, variables: list, noise: tf.Tensor) -> tuple[list, list]:
        """Return g^ and h^ = g^ (theta - m) / sigma^2 at a draw, and what `apply_gradients` takes with each of them.

        `gradients` are those of the mean NLL for `variables`. Any other variable keeps its mean, and its h decays to 0.
        `noise` is eps / sigma = (theta - m) / sigma^2, as `sampled` yields it.
        """
        found = {id(variable): tf.convert_to_tensor(g) for variable, g in zip(variables, gradients, strict=True)}
        parts = [found.get(id(variable), tf.zeros(variable.shape, variable.dtype)) for variable in self.means]
        g_hat = tf.concat([tf.reshape(part, [-1]) for part in parts], 0)
        return [g_hat, g_hat * noise], [tuple(variables)] * 2

    def apply_gradients(self, grads_and_vars: Any, name: str | None = None, **options: Any) -> None:
        """Take a step with what `estimates` returned, averaged over draws and ranks.

        Raises:
          TypeError: these are plain gradients, such as Keras' own `fit` gives.
        """
        pairs = list(grads_and_vars)
        if any(type(variables) is not tuple for _, variables in pairs):
            raise TypeError("IVON needs gradients at a draw of the weights. Train with helpers.fit.fit.")
        (g_hat, variables), (h_hat, _) = pairs
        self._compute_current_learning_rate()
        delta, m = self.decay.read_value(), tf.concat([tf.reshape(variable, [-1]) for variable in self.means], 0)
        alpha = tf.cast(self.learning_rate, m.dtype) * (self.settings["hess_init"] + delta)
        state, t = (m, self.momentum, self.hessian), tf.cast(self.iterations.assign_add(1), m.dtype)
        constants = tuple(self.settings[name] for name in ("beta1", "beta2", "clip_radius"))
        m, g, h = _step(*map(tf.convert_to_tensor, state), g_hat, h_hat, t, alpha, delta, constants)
        self.momentum.assign(g)
        self.hessian.assign(h)
        for variable, mean in zip(self.means, self.shaped(m), strict=True):
            if any(variable is moved for moved in variables):
                variable.assign(mean)

    def posterior(self, model: keras.Model) -> IVONPosterior:
        """Return the posterior of a model that IVON has trained, or that was restored together with IVON."""
        return IVONPosterior(model, self)


# XLA makes one loop of these lines, where TensorFlow would go through the memory for each operation.
@tf.function(jit_compile=sys.platform != "darwin")
def _step(m, g, h, g_hat, h_hat, t, alpha, delta, constants):
    """Compute the lines of Algorithm 1 that follow g^ and h^. All vectors are [P]."""
    beta1, beta2, clip_radius = constants
    g = beta1 * g + (1 - beta1) * g_hat
    h = beta2 * h + (1 - beta2) * h_hat + (1 - beta2) ** 2 / 2 * tf.square(h - h_hat) / (h + delta)
    newton = (g / (1 - beta1**t) + delta * m) / (h + delta)
    return m - alpha * tf.clip_by_value(newton, -clip_radius, clip_radius), g, h
