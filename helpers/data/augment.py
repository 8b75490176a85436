"""Augment training images at random, in the same way for any number of ranks.

Each function here can be the argument `augment` of `pipeline.batches`.
"""

import numpy as np
import tensorflow as tf

REACH = 4  # pixels, at most, in each direction


def reflect(images: np.ndarray | tf.Tensor, words: np.ndarray | tf.Tensor) -> tf.Tensor:
    """Mirror half of the images.

    Args:
      images: [B, H, W, C].
      words: int32 [B, 4], independent random numbers of 31 bits. The first says whether an image is mirrored.

    Returns:
      Images of the same shape and type.
    """
    mirrored = tf.cast(words[:, 0] % 2, tf.bool)
    return tf.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def shift(images: np.ndarray | tf.Tensor, words: np.ndarray | tf.Tensor, reach: int = REACH) -> tf.Tensor:
    """Shift each image by up to `reach` pixels along both axes; pixels that enter at the edges are black.

    Args:
      images: [B, H, W, C].
      words: int32 [B, 4], as `reflect` takes them. The second and third say how far an image is shifted down and right.
      reach: pixels.

    Returns:
      Images of the same shape and type.
    """
    height, width = images.shape[1:3]
    images = tf.pad(images, [[0, 0], [reach, reach], [reach, reach], [0, 0]])
    # 2**31 is no multiple of 9, but the probabilities of the shifts differ by less than 1e-9.
    top, left = words[:, 1, None] % (2 * reach + 1), words[:, 2, None] % (2 * reach + 1)
    images = tf.gather(images, top + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(images, left + tf.range(width), axis=2, batch_dims=1)


def shift_and_reflect(images: np.ndarray | tf.Tensor, words: np.ndarray | tf.Tensor) -> tf.Tensor:
    """Mirror half of the images, and shift each by up to REACH pixels, as `reflect` and `shift` do.

    This is the augmentation of He et al. (2016), section 4.2: four pixels of padding on each side, a random crop of the
    original size, and a random reflection. Under augmentation the posterior is no longer exactly that of Bayes' rule,
    because the network sees other images than the N of the likelihood (Izmailov et al. 2021, section 7).
    """
    return shift(reflect(images, words), words)
