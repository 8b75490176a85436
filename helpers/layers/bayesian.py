"""Bayesian Keras layers: those of TFP, faster in training, with noise that can be repeated and saved.

Each class takes the arguments of the tfp.layers class that it extends, and has the same `kernel_posterior`,
`kernel_prior` and `losses`, so you can exchange the two in a model. The differences are these:

* Each layer owns a `tf.random.Generator`, from which it draws its noise. A checkpoint saves it, so a resumed run draws
  the same numbers as an uninterrupted one. The state of TensorFlow's global generator cannot be saved.
* Random numbers, standard deviations, the products of flipout and the KL take less time.
* With a Keras policy such as `mixed_float16`, products and activations are computed in half precision. Parameters, the
  drawing of the noise and the KL stay float32, so the KL equals that of a float32 layer bit for bit. TFP's own layers
  refuse such a policy.
* Means start from He's initial weights (He, Zhang, Ren and Sun 2015, equation 10), biases from zero, and standard
  deviations from `INITIAL_SCALE`. In TFP every layer starts from the same stream of numbers, whatever its fan-in.
"""

import math
from collections.abc import Callable
from typing import Any

from helpers.layers import flipout, noise

import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras
from tensorflow_probability import distributions as tfd

INITIAL_SCALE = 0.01


def factors(distribution: tfd.Distribution) -> tfd.Distribution:
    """Return the distribution of single weights that `tfd.Independent` makes one of all weights.

    Other distributions of TFP have an attribute `distribution` as well, but it has another meaning there.
    """
    while isinstance(distribution, tfd.Independent):
        distribution = distribution.distribution
    return distribution


def gaussian_kl(
    posterior: tfd.Distribution, prior: tfd.Distribution, draw: tf.Tensor | Callable | None = None
) -> tf.Tensor:
    """Compute KL(posterior || prior), summed over all weights.

    For two factorised Gaussians it is that of Kingma and Welling (2014), appendix B, for any mean and scale of the
    prior. With r = scale_q / scale_p it is sum(r^2 + ((loc_q - loc_p) / scale_p)^2 - 1 - 2 log r) / 2. For other
    distributions it is TFP's formula, or if there is none, the estimate log q(w) - log p(w) from one draw w (Blundell
    et al. 2015, equation 2).

    Args:
      posterior, prior: distributions of the weights. Means and scales may be shared by several weights.
      draw: a draw from the posterior for the estimate, or a function that makes one; None draws one.

    Returns:
      A scalar in nats.
    """
    q, p = factors(posterior), factors(prior)
    if not (isinstance(q, tfd.Normal) and isinstance(p, tfd.Normal)):
        try:
            return tf.reduce_sum(tfd.kl_divergence(posterior, prior))
        except NotImplementedError:
            draw = posterior.sample() if draw is None else draw() if callable(draw) else draw
            return tf.reduce_sum(posterior.log_prob(draw)) - tf.reduce_sum(prior.log_prob(draw))
    r, shift = q.scale / p.scale, (q.loc - p.loc) / p.scale
    weights = math.prod(tf.broadcast_static_shape(q.batch_shape, p.batch_shape))
    each = [weights / math.prod(part.shape) for part in (r, shift)]  # weights that share one number
    square = each[0] * tf.nn.l2_loss(r) + each[1] * tf.nn.l2_loss(shift)
    return square - each[0] * tf.reduce_sum(tf.math.log(r)) - 0.5 * weights


def _whole(part: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """Return a mean or scale of each weight, from one that weights may share."""
    part = tf.convert_to_tensor(part)
    return part if part.shape == shape else tf.broadcast_to(part, shape)


def _defaults() -> dict[str, Callable]:
    """Return arguments of tfp.layers for the initial values and the KL that the module's docstring names."""
    factorised, initial = tfp.layers.default_mean_field_normal_fn, keras.initializers
    scale = initial.Constant(math.log(math.expm1(INITIAL_SCALE)))
    return {
        "kernel_posterior_fn": factorised(False, initial.HeNormal(), scale),
        "bias_posterior_fn": factorised(True, initial.Zeros()),
        "kernel_divergence_fn": gaussian_kl,
    }


class _OwnNoise(keras.layers.Layer):
    """Add to a tfp.layers layer what the module's docstring describes.

    Args:
      seed: an int that seeds the layer's generator; None: it starts from a state that differs every time.
      args, kwargs: the arguments of the tfp.layers class.
    """

    def __init__(self, *args: Any, seed: int | None = None, **kwargs: Any) -> None:
        own = dict.fromkeys(("kernel_posterior_tensor_fn", "bias_posterior_tensor_fn"), self._draw)
        super().__init__(*args, **_defaults() | own | kwargs)
        self.seed, self._arguments = seed, {"args": args} | kwargs
        make = tf.random.Generator
        self.generator = make.from_non_deterministic_state() if seed is None else make.from_seed(seed)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments from which `from_config` makes the layer again."""
        own = {"seed": self.seed, "name": self.name, "trainable": self.trainable, "dtype": self.dtype_policy}
        return self._arguments | own

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "_OwnNoise":
        """Make a layer from what `get_config` returned."""
        return cls(*config["args"], **{key: value for key, value in config.items() if key != "args"})

    def add_variable(self, *args: Any, **kwargs: Any) -> tf.Variable:
        """Create a variable for TFP, which builds its layers with this method.

        Keras warns that the name is deprecated, so this calls `add_weight`. Without autocasting, because Keras would
        otherwise hand out the variables in half precision inside `call`, which also computes the KL.
        """
        return self.add_weight(*args, **kwargs, experimental_autocast=False)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Compute the outputs with freshly drawn noise, and add the KL to `losses`.

        Args:
          inputs: of the shape that the tfp.layers class takes.

        Returns:
          The outputs, in the policy's type of computation.
        """
        posterior = self.kernel_posterior
        normal = factors(posterior)
        if isinstance(normal, tfd.Normal):
            # Otherwise noise and KL each compute the scale from its variable. `__dict__` keeps Keras from tracking it.
            normal = tfd.Normal(*(_whole(part, normal.batch_shape) for part in (normal.loc, normal.scale)))
            self.__dict__["kernel_posterior"] = tfd.Independent(normal, len(normal.batch_shape))
        try:
            # This is TFP's `call` without its first line, which demands inputs of the type of the parameters.
            outputs = self._apply_variational_kernel(tf.cast(inputs, self.compute_dtype))
            outputs = self._apply_variational_bias(outputs)
            for part in ("kernel", "bias"):
                whats = ("divergence_fn", "posterior", "prior", "posterior_tensor")
                divergence, q, p, draw = (getattr(self, f"{part}_{what}") for what in whats)
                self._apply_divergence(divergence, q, p, draw, f"divergence_{part}")
        finally:
            self.__dict__["kernel_posterior"] = posterior
        return outputs if self.activation is None else self.activation(outputs)

    def _apply_divergence(
        self,
        divergence: Callable | None,
        posterior: tfd.Distribution,
        prior: tfd.Distribution | None,
        draw: tf.Tensor | None,
        name: str,
    ) -> None:
        """Add a divergence, which may be estimated from the draw that the product has in half precision."""
        draw = draw if draw is None else tf.cast(draw, self.dtype)
        super()._apply_divergence(divergence, posterior, prior, draw, name)

    def _draw(self, posterior: tfd.Distribution) -> tf.Tensor:
        """Draw from a distribution with the layer's own generator, in the type of the products."""
        one = factors(posterior)
        if isinstance(one, tfd.Deterministic):
            draw = one.loc
        elif isinstance(one, tfd.Normal):
            draw = one.loc + one.scale * noise.normal(self.generator, one.batch_shape, one.dtype)
        else:
            draw = posterior.sample(seed=tf.cast(self.generator.make_seeds()[:, 0], tf.int32))
        return tf.cast(draw, self.compute_dtype)

    def _factors(self, inputs: tf.Tensor, units: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return what flipout needs: means, one draw of the noise, signs for inputs and signs for outputs.

        Raises:
          TypeError: the posterior is not one of independent Normals, so its noise may have a sign.
        """
        self.kernel_posterior_tensor = None
        normal, rows = factors(self.kernel_posterior), inputs.shape[0] or tf.shape(inputs)[0]
        if not isinstance(normal, tfd.Normal):
            raise TypeError(
                f"{self.name} has the posterior {self.kernel_posterior}, but flipout needs independent Normals. "
                "Choose a reparameterisation layer, or another posterior."
            )
        draw = self.kernel_posterior_tensor_fn(tfd.Normal(tf.zeros([], normal.dtype), normal.scale))
        columns, dtype = (inputs.shape[-1], units), inputs.dtype
        signs_in, signs_out = (noise.signs(self.generator, rows, n, dtype) for n in columns)
        return tf.cast(normal.loc, dtype), tf.cast(draw, dtype), signs_in, signs_out


class DenseReparameterization(_OwnNoise, tfp.layers.DenseReparameterization):
    """`tfp.layers.DenseReparameterization`, in which the whole batch shares one draw of the weights."""


class Convolution2DReparameterization(_OwnNoise, tfp.layers.Convolution2DReparameterization):
    """`tfp.layers.Convolution2DReparameterization`, in which the whole batch shares one draw of the kernel."""


class DenseFlipout(_OwnNoise, tfp.layers.DenseFlipout):
    """`tfp.layers.DenseFlipout`, in which each example multiplies the draw by signs of its own."""

    def _apply_variational_kernel(self, inputs: tf.Tensor) -> tf.Tensor:
        rows = inputs if inputs.shape.rank == 2 else tf.reshape(inputs, [-1, inputs.shape[-1]])
        outputs = flipout.dense(rows, *self._factors(rows, self.units))
        return outputs if rows is inputs else tf.reshape(outputs, [*tf.unstack(tf.shape(inputs))[:-1], self.units])


class Convolution2DFlipout(_OwnNoise, tfp.layers.Convolution2DFlipout):
    """`tfp.layers.Convolution2DFlipout`, in which each example multiplies the draw by signs of its own."""

    def _apply_variational_kernel(self, inputs: tf.Tensor) -> tf.Tensor:
        places = self.compute_output_shape(inputs.shape).as_list()[1:]
        last = self.data_format == "channels_last"
        inputs, places = (inputs, places[:-1]) if last else (tf.transpose(inputs, [0, 2, 3, 1]), places[1:])
        how = {"strides": self.strides, "padding": self.padding.upper(), "dilations": self.dilation_rate}
        outputs = flipout.convolution(inputs, *self._factors(inputs, self.filters), places, **how)
        return outputs if last else tf.transpose(outputs, [0, 3, 1, 2])
