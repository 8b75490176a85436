"""Flipout's arithmetic: random numbers at little cost, and products with weights that differ by example.

Wen, Vicol, Ba, Tran and Grosse (2018): one draw of the weights' noise serves a batch, but every example n has it
multiplied by signs of its own for inputs and outputs, W_n = mean + noise * (signs_in[n] signs_out[n]^T). Examples
are then uncorrelated given their inputs, and each sees weights from the posterior, symmetric noise having no sign.
"""

import functools
import math

import numpy as np
import tensorflow as tf

# Below this many places that a kernel is applied at, making a kernel for every example costs what it saves.
PLACES = 128
# Up to this many inputs to a place, patches and a matrix product are faster than a grouped convolution.
PATCH = 32
_SIGNS = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32)


def normal(generator, shape, dtype=tf.float32):
    """Standard normal numbers of a static shape, by `normals`."""
    count = math.prod(shape)
    words = generator.uniform_full_int([(count + 1) // 2], dtype=tf.int32)
    return tf.cast(tf.reshape(normals(words)[:count], shape), dtype)


def normals(words):
    """Standard normal numbers [2 n] from random words, int32 [n]: two from each (Box and Muller 1958).

    With 16 bits each for radius and angle their variance is right to 5e-6, and none is beyond 4.9, where one
    in 800,000 should be.
    """
    halves = tf.reshape(tf.cast(tf.bitcast(words, tf.uint16), tf.float32), [2, -1])
    radius = tf.sqrt(-2.0 * tf.math.log((halves[0] + 0.5) * 2.0**-16))
    angle = 2.0 * math.pi * 2.0**-16 * halves[1]
    return tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=0)


def signs(generator, rows, columns, dtype=tf.float32):
    """Independent signs, +1 or -1 with equal chance: [rows, columns], 32 from one random word."""
    count = rows * columns
    words = generator.uniform_full_int([(count + 31) // 32], dtype=tf.int32)
    octets = tf.gather(tf.constant(_SIGNS, dtype), tf.cast(tf.bitcast(words, tf.uint8), tf.int32))
    return tf.reshape(tf.reshape(octets, [-1])[:count], [rows, columns])


def dense(inputs, mean, noise, signs_in, signs_out):
    """inputs [B, I] times each example's weights (Wen et al., equation 4): [B, O].

    Args:
      mean, noise: [I, O].
      signs_in, signs_out: [B, I] and [B, O].
    """
    return tf.matmul(inputs, mean) + tf.matmul(inputs * signs_in, noise) * signs_out


def convolution(inputs, mean, noise, signs_in, signs_out, places, **how):
    """inputs [B, H, W, I] convolved with each example's kernel: [B, *places, O].

    Two convolutions, as Wen et al. (section 3.2) have it, or one with the kernels written out.

    Args:
      mean, noise: [height, width, I, O].
      signs_in, signs_out: [B, I] and [B, O]: one sign for a channel of an example, at all places.
      places: height and width of the outputs.
      how: strides, padding and dilations, as `tf.nn.conv2d` takes them.
    """
    height, width, channels, filters = mean.shape
    size, rows = height * width * channels, tf.shape(signs_in)[0] if signs_in.shape[0] is None else signs_in.shape[0]
    if None in places or math.prod(places) < PLACES or (size > PATCH and not _groups_have_gradients(mean.dtype)):
        perturbed = tf.nn.conv2d(inputs * signs_in[:, None, None], noise, **how)
        return tf.nn.conv2d(inputs, mean, **how) + perturbed * signs_out[:, None, None]
    if size <= PATCH:
        # One-hot kernels cut the patches out; tf.image.extract_patches is several times slower.
        one_hot = tf.reshape(tf.eye(size, dtype=inputs.dtype), [height, width, channels, size])
        patches = tf.nn.conv2d(inputs, one_hot, **how)
        sign = tf.tile(signs_in, [1, height * width])[:, :, None] * signs_out[:, None]
        kernels = tf.reshape(mean, [size, filters]) + tf.reshape(noise, [size, filters]) * sign
        outputs = tf.matmul(tf.reshape(patches, [rows, -1, size]), kernels)
        return tf.reshape(outputs, [rows, *places, filters])
    # A grouped convolution: examples side by side as channels, each group with its own kernel.
    sign = tf.transpose(signs_in)[:, :, None] * signs_out
    kernels = mean[:, :, :, None] + noise[:, :, :, None] * sign
    beside = tf.reshape(tf.transpose(inputs, [1, 2, 0, 3]), [1, *inputs.shape[1:3], rows * channels])
    outputs = tf.nn.conv2d(beside, tf.reshape(kernels, [height, width, channels, rows * filters]), **how)
    return tf.transpose(tf.reshape(outputs, [*places, rows, filters]), [2, 0, 1, 3])


@functools.cache
def _groups_have_gradients(dtype):
    """Whether this TensorFlow differentiates grouped convolutions: on processors, with oneDNN alone."""

    @tf.function
    def gradients():
        inputs, kernel = tf.ones([1, 1, 1, 4], dtype), tf.ones([1, 1, 2, 4], dtype)
        return tf.gradients(tf.nn.conv2d(inputs, kernel, 1, "VALID"), [inputs, kernel])

    try:
        with tf.init_scope():
            gradients()
    except tf.errors.OpError:
        return False
    return True
