"""IVON: an optimiser that learns a Gaussian posterior of all weights, with one pass through the network a step."""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from helpers.layers.noise import stateless_normal
from helpers.methods.ivon_posterior import IVONPosterior
from helpers.methods.weights import claim, flattened, shaped

import tensorflow as tf
import tf_keras as keras


class IVON(keras.optimizers.Optimizer):
    """Improved variational online Newton, Algorithm 1 of Shen et al. (2024, arXiv:2402.17641).

    The posterior of the weights is N(m, diag(sigma^2)) with sigma^2 = 1 / (lambda (h + delta)). Here m are the model's
    variables, and h estimates the diagonal of the Hessian of the mean NLL. The prior is N(0, 1 / (lambda delta)). With
    lambda = N, IVON minimises the negative ELBO of N examples. Other values give the temperature N / lambda.

    Give it to `helpers.fit.fit` with a model without Bayesian layers. N ranks follow one rank with N draws, because
    `fit` averages g^ and h^ over both. The history's NLL is that of the draws, with the model's regularisers in it.

    Args:
      learning_rate: alpha / (h_0 + delta), so that the first step is that of SGD; a number > 0 or a schedule of Keras.
      effective_sample_size: lambda > 0, usually the number of training examples.
      beta1, beta2: decay of the means of gradients and of Hessians, in [0, 1).
      hess_init, weight_decay: h_0 > 0, with which h starts, and delta > 0.
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
          ValueError: IVON has the variables of another model, or `weights.claim` refuses these.
        """
        if self.means and list(map(id, self.means)) != list(map(id, var_list)):
            raise ValueError("This IVON has the variables of another model. Make a new one for each model.")
        dtype = claim(var_list, self)
        if self.means:  # a further run counts its steps anew, and its first steps correct a momentum that starts at 0
            self.momentum.assign(tf.zeros_like(self.momentum))  # type: ignore[has-type]
            return
        super().build(var_list)
        self.means, size = self._no_dependency(list(var_list)), sum(math.prod(v.shape) for v in var_list)

        def add(name: str, shape: list[int]) -> tf.Variable:
            return self.add_variable(shape, dtype, keras.initializers.Constant(self.settings.get(name, 0.0)), name)

        self.hessian, self.momentum = add("hess_init", [size]), add("momentum", [size])
        self.sample_size, self.decay = add("effective_sample_size", []), add("weight_decay", [])

    def deviations(self) -> tf.Tensor:
        """Return sigma, one vector for all variables."""
        return tf.math.rsqrt(self.sample_size * (self.hessian + self.decay))

    @contextmanager
    def sampled(self, key: tf.Tensor) -> Iterator[tf.Tensor]:
        """Let the variables hold the draw m + sigma eps of a key, an int64 [2], in this context; yield eps / sigma."""
        means, sigma = [variable.read_value() for variable in self.means], self.deviations()
        noise = stateless_normal(key, self.hessian.shape, self.hessian.dtype)
        try:
            for variable, mean, part in zip(self.means, means, shaped(sigma * noise, means), strict=True):
                variable.assign(mean + part)
            yield noise / sigma
        finally:
            for variable, mean in zip(self.means, means, strict=True):
                variable.assign(mean)

    def estimates(self, gradients: list, variables: list, noise: tf.Tensor) -> tuple[list, list]:
        """Return g^ and h^ = g^ (theta - m) / sigma^2 at a draw, and the variables of each for `apply_gradients`.

        `gradients` are of the mean NLL for `variables`; other variables keep their means. `noise` is eps / sigma.
        """
        found = {id(variable): tf.convert_to_tensor(g) for variable, g in zip(variables, gradients, strict=True)}
        parts = [found.get(id(variable), tf.zeros(variable.shape, variable.dtype)) for variable in self.means]
        g_hat = flattened(parts)
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
        t, delta = tf.cast(self.iterations.assign_add(1), g_hat.dtype), self.decay.read_value()
        alpha = tf.cast(self.learning_rate, g_hat.dtype) * (self.settings["hess_init"] + delta)
        constants = alpha, delta, *(self.settings[name] for name in ("beta1", "beta2", "clip_radius"))
        m, g, h = _step(flattened(self.means), self.momentum.value(), self.hessian.value(), g_hat, h_hat, t, constants)
        self.momentum.assign(g)
        self.hessian.assign(h)
        for variable, mean in zip(self.means, shaped(m, self.means), strict=True):
            if any(variable is moved for moved in variables):
                variable.assign(mean)

    def posterior(self, model: keras.Model) -> IVONPosterior:
        """Return the posterior of a model that IVON has trained. Its KL, `kl()`, is not in the history of `fit`."""
        return IVONPosterior(model, self)


# XLA makes one loop of these lines; TensorFlow would go through the memory for each operation.
@tf.function(jit_compile=sys.platform != "darwin")
def _step(m, g, h, g_hat, h_hat, t, constants):
    """Compute the lines of Algorithm 1 that follow g^ and h^. All vectors are [P]."""
    alpha, delta, beta1, beta2, clip_radius = constants
    g = beta1 * g + (1 - beta1) * g_hat
    h = beta2 * h + (1 - beta2) * h_hat + (1 - beta2) ** 2 / 2 * tf.square(h - h_hat) / (h + delta)
    newton = (g / (1 - beta1**t) + delta * m) / (h + delta)
    return m - alpha * tf.clip_by_value(newton, -clip_radius, clip_radius), g, h
