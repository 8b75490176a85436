"""Bayesian layers: TFP's, faster in training, with noise that can be repeated and saved.

Each class takes the arguments of the tfp.layers class it extends and has the same `kernel_posterior`,
`kernel_prior` and `losses`, so that either can stand in a model. What changes:

* noise comes from a `tf.random.Generator` that the layer owns and a checkpoint saves, so that a resumed run draws
  what the uninterrupted one would have; the state of TensorFlow's global generator cannot be saved;
* random numbers, standard deviations, flipout's products and the KL cost less;
* with a Keras policy such as `mixed_float16`, products and activations are computed in half precision. Parameters,
  the noise at its making and the KL stay float32, so that the KL is to the bit that of a float32 layer. TFP's own
  layers refuse such a policy;
* means start from He's initial weights (He et al. 2015, equation 10), biases from zero, standard deviations
  from `INITIAL_SCALE`. TFP starts every layer from the same stream of numbers, whatever its fan-in.
"""

import math

from helpers.layers import flipout

import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras

tfd = tfp.distributions
INITIAL_SCALE = 0.01


def gaussian_kl(posterior, prior, _=None):
    """KL(posterior || prior) of two factorised Gaussians, summed over all weights.

    Kingma and Welling (2014), appendix B, for any prior mean and scale: with r = scale_q / scale_p,
    sum(r^2 + ((loc_q - loc_p) / scale_p)^2 - 1 - 2 log r) / 2, a scalar in nats. Distributions other than
    `tfd.Independent(tfd.Normal)` are left to TFP.
    """
    q, p = (getattr(d, "distribution", None) for d in (posterior, prior))
    if not (isinstance(q, tfd.Normal) and isinstance(p, tfd.Normal)):
        return tfd.kl_divergence(posterior, prior)
    r, shift = q.scale / p.scale, (q.loc - p.loc) / p.scale
    return tf.nn.l2_loss(r) + tf.nn.l2_loss(shift) - tf.reduce_sum(tf.math.log(r)) - 0.5 * math.prod(r.shape)


def _posteriors():
    """Arguments of tfp.layers: posteriors with the initial values named above, and the KL."""
    factorised, initial = tfp.layers.default_mean_field_normal_fn, keras.initializers
    scale = initial.Constant(math.log(math.expm1(INITIAL_SCALE)))
    return {
        "kernel_posterior_fn": factorised(False, initial.HeNormal(), scale),
        "bias_posterior_fn": factorised(True, initial.Zeros()),
        "kernel_divergence_fn": gaussian_kl,
    }


class _OwnNoise:
    """Gives a tfp.layers layer a generator of its own, and the defaults named above."""

    def __init__(self, *args, seed=None, **kwargs):
        own = dict.fromkeys(("kernel_posterior_tensor_fn", "bias_posterior_tensor_fn"), self._draw)
        super().__init__(*args, **_posteriors() | own | kwargs)
        self.seed, self._arguments = seed, {"args": args} | kwargs
        make = tf.random.Generator
        self.generator = make.from_non_deterministic_state() if seed is None else make.from_seed(seed)

    def get_config(self):
        own = {"seed": self.seed, "name": self.name, "trainable": self.trainable, "dtype": self.dtype_policy}
        return self._arguments | own

    @classmethod
    def from_config(cls, config):
        return cls(*config["args"], **{key: value for key, value in config.items() if key != "args"})

    def add_variable(self, *args, **kwargs):
        """TFP builds with this, Keras' deprecated name for add_weight, and every layer would warn of it.

        Keras would hand out variables in half precision inside `call`, where the KL is computed too.
        """
        return self.add_weight(*args, **kwargs, experimental_autocast=False)

    def call(self, inputs):
        posterior = self.kernel_posterior
        normal = getattr(posterior, "distribution", None)
        if isinstance(normal, tfd.Normal):
            # Noise and KL would each compute the scale from its variable. Assigned past Keras' tracking.
            normal = tfd.Normal(tf.convert_to_tensor(normal.loc), tf.convert_to_tensor(normal.scale))
            vars(self)["kernel_posterior"] = tfd.Independent(normal, posterior.reinterpreted_batch_ndims)
        try:
            # What TFP's `call` does, but for its first line, which demands inputs of the parameters' type.
            outputs = self._apply_variational_kernel(tf.cast(inputs, self.compute_dtype))
            outputs = self._apply_variational_bias(outputs)
            for part in ("kernel", "bias"):
                found = (getattr(self, f"{part}_{what}") for what in ("posterior", "prior", "posterior_tensor"))
                self._apply_divergence(getattr(self, f"{part}_divergence_fn"), *found, name=f"divergence_{part}")
        finally:
            vars(self)["kernel_posterior"] = posterior
        return outputs if self.activation is None else self.activation(outputs)

    def _apply_divergence(self, divergence, posterior, prior, draw, name):
        """A divergence may be estimated from the draw, which the product has had in half precision."""
        draw = draw if draw is None else tf.cast(draw, self.dtype)
        super()._apply_divergence(divergence, posterior, prior, draw, name)

    def _draw(self, posterior):
        """One draw from a distribution, by the layer's own generator, in the type of the products."""
        factors = getattr(posterior, "distribution", posterior)
        if isinstance(factors, tfd.Deterministic):
            draw = factors.loc
        elif isinstance(factors, tfd.Normal):
            draw = factors.loc + factors.scale * flipout.normal(self.generator, factors.batch_shape, factors.dtype)
        else:
            draw = posterior.sample(seed=tf.cast(self.generator.make_seeds()[:, 0], tf.int32))
        return tf.cast(draw, self.compute_dtype)

    def _factors(self, inputs, units):
        """What flipout makes an example's weights of: means, noise, and its signs for inputs and for outputs."""
        self.kernel_posterior_tensor = None
        normal, rows = self.kernel_posterior.distribution, inputs.shape[0] or tf.shape(inputs)[0]
        if not isinstance(normal, tfd.Normal):
            raise TypeError(f"flipout needs a posterior of independent Normals, found {self.kernel_posterior}")
        noise = self.kernel_posterior_tensor_fn(tfd.Normal(tf.zeros([], normal.dtype), normal.scale))
        columns, dtype = (inputs.shape[-1], units), inputs.dtype
        mean, noise = tf.cast(normal.loc, dtype), tf.cast(noise, dtype)
        return mean, noise, *(flipout.signs(self.generator, rows, n, dtype) for n in columns)


class DenseReparameterization(_OwnNoise, tfp.layers.DenseReparameterization):
    """`tfp.layers.DenseReparameterization`: one draw of the weights shared by the whole batch."""


class Convolution2DReparameterization(_OwnNoise, tfp.layers.Convolution2DReparameterization):
    """`tfp.layers.Convolution2DReparameterization`: one draw of the kernel shared by the whole batch."""


class DenseFlipout(_OwnNoise, tfp.layers.DenseFlipout):
    """`tfp.layers.DenseFlipout`: every example has the draw with signs of its own."""

    def _apply_variational_kernel(self, inputs):
        rows = inputs if inputs.shape.rank == 2 else tf.reshape(inputs, [-1, inputs.shape[-1]])
        outputs = flipout.dense(rows, *self._factors(rows, self.units))
        return outputs if rows is inputs else tf.reshape(outputs, [*tf.unstack(tf.shape(inputs))[:-1], self.units])


class Convolution2DFlipout(_OwnNoise, tfp.layers.Convolution2DFlipout):
    """`tfp.layers.Convolution2DFlipout`: every example has the draw with signs of its own."""

    def _apply_variational_kernel(self, inputs):
        places = self.compute_output_shape(inputs.shape).as_list()[1:]
        last = self.data_format == "channels_last"
        inputs, places = (inputs, places[:-1]) if last else (tf.transpose(inputs, [0, 2, 3, 1]), places[1:])
        how = {"strides": self.strides, "padding": self.padding.upper(), "dilations": self.dilation_rate}
        outputs = flipout.convolution(inputs, *self._factors(inputs, self.filters), places, **how)
        return outputs if last else tf.transpose(outputs, [0, 3, 1, 2])


def seed_noise(model, seed, rank=0, restart=True):
    """Key the weight noise of every layer of `model` that owns a generator to (seed, rank, layer).

    The noise of two ranks must differ, or N ranks would draw it N times over and average nothing away.

    Args:
      model: a Keras model.
      seed, rank: ints: the run's seed and this process's rank.
      restart: begin the streams anew; False keeps the place that a checkpoint has restored. Every rank
        has drawn as much as every other, so rank 0's checkpoint serves them all.
    """
    for index, layer in enumerate(layer for layer in model.submodules if hasattr(layer, "generator")):
        # Philox keys must not collide between (seed, rank, layer): mix them with TF's own stateless hash.
        mixed = tf.random.experimental.stateless_fold_in(tf.constant([seed, rank], tf.int64), index, alg="philox")
        key = tf.random.stateless_uniform([], mixed, None, None, tf.int64, alg="philox")
        counter = tf.zeros([2], tf.int64) if restart else layer.generator.state[:2]
        layer.generator.reset_from_key_counter(key, counter)
