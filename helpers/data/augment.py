"""Augment training images at random, in the same way for any number of ranks.

Each function here can be the argument `augment` of `pipeline.batches`.
"""

import numpy as np
import tensorflow as tf

REACH = 4  # pixels, at most, in each direction


def shift_and_reflect(images: np.ndarray | tf.Tensor, words: np.ndarray | tf.Tensor) -> tf.Tensor:
    """Mirror half of the images, and shift each by up to REACH pixels; pixels that enter at the edges are black.

    This is the augmentation of He et al. (2016), section 4.2: four pixels of padding on each side, a random crop of the
    original size, and a random reflection. Under augmentation the posterior is no longer exactly that of Bayes' rule,
    because the network sees other images than the N of the likelihood (Izmailov et al. 2021, section 7).

    Args:
      images: [B, H, W, C].
      words: int32 [B, 4], independent random numbers of 31 bits. The first says whether an image is mirrored, and the
        next two how far it is shifted down and to the right.

    Returns:
      Images of the same shape and type.
    """
    height, width = images.shape[1:3]
    mirrored = tf.cast(words[:, 0] % 2, tf.bool)
    images = tf.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    images = tf.pad(images, [[0, 0], [REACH, REACH], [REACH, REACH], [0, 0]])
    # 2**31 is no multiple of 9, but the probabilities of the shifts differ by less than 1e-9.
    top, left = words[:, 1, None] % (2 * REACH + 1), words[:, 2, None] % (2 * REACH + 1)
    images = tf.gather(images, top + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(images, left + tf.range(width), axis=2, batch_dims=1)
