"""What a posterior is, and that of a Keras model: which layers have one, draws of their weights, outputs with them.

The weights of a network depend on the seed, on the number of the network and on the layer alone. So they are the same
however many networks are drawn at once. The outputs of a network are those of the model's own call while each Bayesian
layer is fixed to its draw.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

from helpers.layers import bayesian
from helpers.layers.divergence import reads_inputs
from helpers.layers.noise import fold_in, stateless_normal
from helpers.layers.parts import modules_of

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras
from tensorflow_probability import distributions as tfd
from tensorflow_probability.python.layers import conv_variational, dense_variational


@runtime_checkable
class Posterior(Protocol):
    """A posterior over networks, from which `predict` draws. Each method in `helpers.methods` gives one.

    Attributes:
      members: the number of networks if they can run out (an ensemble of five has 5), else None.
    """

    members: int | None

    def fixed(self, seed: int, number: int) -> AbstractContextManager[keras.Model]:
        """Yield a Keras model whose call with training=False is, in this context, that of one network.

        A method assigns the model's variables, or switches what its layers do, and puts the old state back at the end,
        after an exception too. All its models take the same inputs. The call is compiled once for each model and each
        setting of its layers. So numbers that differ between networks belong into variables, not into tensors.
        If the yielded model has Bayesian layers, the network is draw `number` from these.

        Args:
          seed: of all draws.
          number: of the network, from 0, and below `members`. The network depends on seed and number alone. Use
            `helpers.layers.noise` for draws, so that they are the same on each platform.
        """
        ...


# What has a posterior


def parts_of(*layers: keras.layers.Layer) -> list[tf.Module]:
    """Return these layers and all that is in them, at any depth, each once."""
    found: dict[int, tf.Module] = {}
    for layer in layers:
        found |= {id(part): part for part in layer._flatten_layers()}
        found |= {id(part): part for part in modules_of(layer) if id(part) not in found}
    return list(found.values())


def bayesian_layers(*parts: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return the layers among and in `parts`, at any depth, whose weights have a posterior."""
    return [layer for layer in parts_of(*parts) if hasattr(layer, "kernel_posterior") or _is_joint(layer)]


def drawable_layers(*parts: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return those of `bayesian_layers` whose draws can be fixed, because they draw as tfp.layers or helpers.layers do.

    A layer that draws in another way, by a tensor function or a product of the reader's own, is called as it is.
    """
    joint = {id(layer) for layer in bayesian_layers(*parts) if _is_joint(layer) and not reads_inputs(layer)}
    return [layer for layer in bayesian_layers(*parts) if id(layer) in joint or _draws_as_known(layer)]


def _draws_as_known(layer: keras.layers.Layer) -> bool:
    if not isinstance(layer, (dense_variational._DenseVariational, conv_variational._ConvVariational)):
        return False
    given = [layer.kernel_posterior_tensor_fn, *([layer.bias_posterior_tensor_fn] if layer.bias_posterior else [])]
    named = [type(layer)._apply_variational_kernel, type(layer)._apply_variational_bias, *given]
    known = {dense_variational.__name__, conv_variational.__name__, bayesian.__name__}
    own = ("_apply_variational_kernel", "_apply_variational_bias")
    return {function.__module__ for function in named} <= known and not any(name in vars(layer) for name in own)


def is_bayesian(model: keras.Model) -> bool:
    """Tell whether a built model has a layer, at any depth, whose weights have a posterior."""
    return bool(bayesian_layers(model))


def variational_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of a built model, at any depth, whose kernel has a posterior, in the model's order."""
    return [layer for layer in parts_of(*model.layers) if hasattr(layer, "kernel_posterior")]


def posterior_moments(model: keras.Model) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the moments of the posteriors of all kernels of `variational_layers`.

    Returns:
      {layer's name: (means, standard deviations)}, arrays of the kernel's shape. If several layers have one name, the
      second is called NAME_2, and so on.
    """
    moments: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for layer in variational_layers(model):
        names = itertools.chain([layer.name], (f"{layer.name}_{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in moments)
        moments[name] = (layer.kernel_posterior.mean().numpy(), layer.kernel_posterior.stddev().numpy())
    return moments


def is_dense(layer: keras.layers.Layer) -> bool:
    """Tell whether a Bayesian layer multiplies by a kernel [D, H]. The others convolve."""
    return _is_joint(layer) or hasattr(layer, "kernel_posterior") and not hasattr(layer, "kernel_size")


def _is_joint(layer: keras.layers.Layer) -> bool:
    """Tell whether kernel and bias have one posterior together."""
    return isinstance(layer, tfp.layers.DenseVariational)


# Draws of the weights


def sampler(layer: keras.layers.Layer) -> tuple[Callable[[tf.Tensor], list[tf.Tensor]], list[tf.DType]]:
    """Prepare draws from the posterior of a Bayesian layer.

    Returns:
      (draw, types): `draw` takes a seed, int64 [2], and returns one draw of the kernel and, if the layer has one, of
      the bias. `types` are the types of these tensors.
    """
    if not _is_joint(layer):
        posteriors = [p for p in (layer.kernel_posterior, layer.bias_posterior) if p is not None]
        draws = [_sampler(posterior) for posterior in posteriors]
        return lambda seed: [draw(fold_in(seed, i)) for i, draw in enumerate(draws)], [p.dtype for p in posteriors]
    width = layer.input_spec.axes[-1]
    posterior = layer._posterior(tf.zeros([1, width]))
    draw = _sampler(posterior)

    def split(seed: tf.Tensor) -> list[tf.Tensor]:
        kernel, bias = tf.split(draw(seed), [width * layer.units, -1])
        return [tf.reshape(kernel, [width, layer.units]), bias][: 1 + layer.use_bias]

    return split, [posterior.dtype] * (1 + layer.use_bias)


def _sampler(posterior: tfd.Distribution) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function from a seed to one draw from this distribution."""
    factors = posterior.distribution if isinstance(posterior, tfd.Independent) else posterior
    if isinstance(factors, tfd.Deterministic):
        loc = tf.convert_to_tensor(factors.loc)
        return lambda seed: loc
    if isinstance(factors, tfd.Normal):
        loc, scale = tf.convert_to_tensor(factors.loc), tf.convert_to_tensor(factors.scale)
        return lambda seed: loc + scale * stateless_normal(seed, factors.batch_shape, factors.dtype)
    return lambda seed: tf.convert_to_tensor(posterior.sample(seed=tf.cast(seed, tf.int32)))


# Layers that are fixed to a draw

Drawn = Sequence[tuple[keras.layers.Layer, Sequence[tf.Tensor]]]
# What a call leaves in the layer, next to what is replaced.
LEFT = (
    "kernel_posterior_tensor",
    "bias_posterior_tensor",
    "kernel_posterior_affine",
    "kernel_posterior_affine_tensor",
)


@contextmanager
def fixed(drawn: Drawn) -> Iterator[None]:
    """Fix each layer to its draw in this context: it takes these weights where it would draw, and adds no KL.

    The layer's own `call` does the rest, so a `call` that a reader wrote is used as well.
    """
    replaced = [(layer, _replacements(layer, *tensors)) for layer, tensors in drawn]
    kept = [(layer, {name: vars(layer).get(name, _ABSENT) for name in (*new, *LEFT)}) for layer, new in replaced]
    try:
        for layer, new in replaced:
            vars(layer).update(new)
        yield
    finally:
        for layer, old in kept:
            for name, value in old.items():
                vars(layer).pop(name, None)
                if value is not _ABSENT:
                    vars(layer)[name] = value


_ABSENT = object()


def _replacements(layer: keras.layers.Layer, kernel: tf.Tensor, bias: tf.Tensor | None = None) -> dict[str, object]:
    """Return the attributes that make a layer use these weights."""
    if _is_joint(layer):
        both = tf.concat([tf.reshape(kernel, [-1]), *([] if bias is None else [bias])], 0)
        nothing = dict.fromkeys(("_prior", "_kl_divergence_fn"), lambda *_: tf.zeros([], both.dtype))
        return {"_posterior": lambda _: both, **nothing}
    kernel = tf.cast(kernel, layer.compute_dtype)
    bias = bias if bias is None else tf.cast(bias, layer.compute_dtype)

    @tf.autograph.experimental.do_not_convert
    def product(inputs: tf.Tensor) -> tf.Tensor:
        vars(layer)["kernel_posterior_tensor"] = kernel
        inputs = tf.cast(inputs, kernel.dtype)
        if is_dense(layer):
            # A batch of one product is faster than a plain product if the kernel has few columns.
            return tf.matmul(inputs[None], kernel[None])[0]
        before, after = ("NC", "") if layer.data_format == "channels_first" else ("N", "C")
        layout = before + "DHW"[-layer.rank :] + after
        options = {"data_format": layout, "dilations": layer.dilation_rate}
        return tf.nn.convolution(inputs, kernel, layer.strides, layer.padding.upper(), **options)

    return {
        "_apply_variational_kernel": product,
        "bias_posterior_tensor_fn": lambda _: bias,
        "_apply_divergence": lambda *_, **__: None,
        # A loop that reads variables computes one network after the other, and without a KL this `call` needs none.
        **({"kernel_posterior": None} if type(layer).call is bayesian._OwnNoise.call else {}),
    }
