"""The products of flipout, in which the weights differ from example to example.

Wen, Vicol, Ba, Tran and Grosse (2018) draw the noise of the weights once for the whole batch and multiply it by signs
that each example n has for its inputs and its outputs: W_n = mean + noise * (signs_in[n] signs_out[n]^T). The noise is
symmetric, so each example still sees weights from the posterior. Given their inputs, examples are uncorrelated.
"""

import functools
import math
from collections.abc import Sequence

import tensorflow as tf

# With fewer output positions, writing a kernel for each example costs what it saves.
PLACES = 128
# Up to this many inputs to an output position, patches and a matrix product are faster than a grouped convolution.
PATCH = 32


def dense(inputs: tf.Tensor, mean: tf.Tensor, noise: tf.Tensor, signs_in: tf.Tensor, signs_out: tf.Tensor) -> tf.Tensor:
    """Multiply each example by its own weights (Wen et al. 2018, equation 4).

    Args:
      inputs: [B, I].
      mean, noise: [I, O], the means of the weights and one draw of their noise, which has mean zero.
      signs_in, signs_out: [B, I] and [B, O], the signs of each example.

    Returns:
      [B, O].
    """
    return tf.matmul(inputs, mean) + tf.matmul(inputs * signs_in, noise) * signs_out


def convolution(
    inputs: tf.Tensor,
    mean: tf.Tensor,
    noise: tf.Tensor,
    signs_in: tf.Tensor,
    signs_out: tf.Tensor,
    places: Sequence,
    **how: object,
) -> tf.Tensor:
    """Convolve each example with its own kernel.

    Depending on the sizes these are two convolutions, as Wen et al. (2018, section 3.2) describe them, or one product
    with the kernels of all examples written out. The results are the same up to rounding.

    Args:
      inputs: [B, H, W, I].
      mean, noise: [height, width, I, O], the means of the kernel and one draw of its noise, which has mean zero.
      signs_in, signs_out: [B, I] and [B, O]. A channel of an example has one sign at all positions.
      places: height and width of the outputs; None where they are unknown.
      how: strides, padding and dilations, as `tf.nn.conv2d` takes them.

    Returns:
      [B, *places, O].
    """
    height, width, channels, filters = mean.shape
    size, rows = height * width * channels, tf.shape(signs_in)[0] if signs_in.shape[0] is None else signs_in.shape[0]
    if (
        None in places
        or math.prod(filter(None, places)) < PLACES
        or (size > PATCH and not _groups_have_gradients(mean.dtype))
    ):
        perturbed = tf.nn.conv2d(inputs * signs_in[:, None, None], noise, **how)
        return tf.nn.conv2d(inputs, mean, **how) + perturbed * signs_out[:, None, None]
    if size <= PATCH:
        # A convolution with one-hot kernels cuts out the patches, because tf.image.extract_patches is several times
        # slower.
        one_hot = tf.reshape(tf.eye(size, dtype=inputs.dtype), [height, width, channels, size])
        patches = tf.nn.conv2d(inputs, one_hot, **how)
        sign = tf.tile(signs_in, [1, height * width])[:, :, None] * signs_out[:, None]
        kernels = tf.reshape(mean, [size, filters]) + tf.reshape(noise, [size, filters]) * sign
        outputs = tf.matmul(tf.reshape(patches, [rows, -1, size]), kernels)
        return tf.reshape(outputs, [rows, *places, filters])
    # In a grouped convolution the examples stand side by side as channels, and each group has its own kernel.
    sign = tf.transpose(signs_in)[:, :, None] * signs_out
    kernels = mean[:, :, :, None] + noise[:, :, :, None] * sign
    beside = tf.reshape(tf.transpose(inputs, [1, 2, 0, 3]), [1, *inputs.shape[1:3], rows * channels])
    outputs = tf.nn.conv2d(beside, tf.reshape(kernels, [height, width, channels, rows * filters]), **how)
    return tf.transpose(tf.reshape(outputs, [*places, rows, filters]), [2, 0, 1, 3])


@functools.cache
def _groups_have_gradients(dtype: tf.DType) -> bool:
    """Tell whether this TensorFlow differentiates grouped convolutions. On CPUs it does so only with oneDNN."""

    @tf.function
    def gradients() -> list[tf.Tensor]:
        inputs, kernel = tf.ones([1, 1, 1, 4], dtype), tf.ones([1, 1, 2, 4], dtype)
        return tf.gradients(tf.nn.conv2d(inputs, kernel, 1, "VALID"), [inputs, kernel])

    try:
        with tf.init_scope():
            gradients()
    except tf.errors.OpError:
        return False
    return True
