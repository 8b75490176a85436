"""Random shifts and reflections of training images, the same whatever the number of ranks."""

import numpy as np
import tensorflow as tf

REACH = 4  # pixels, at most, in each direction


def moves(n, seed, epoch):
    """How each of n examples is moved in this epoch: int32 [n, 3], whether reflected, and places down and right.

    Like `data.epoch_order` it depends on seed and epoch alone, so ranks need no message to agree.
    """
    stream = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, epoch, 1])))
    shifts = stream.randint(0, 2 * REACH + 1, size=(n, 2))
    return np.column_stack([stream.randint(0, 2, size=n), shifts]).astype(np.int32)


def move(images, moves):
    """Reflect and shift images [B, H, W, C] by `moves` int32 [B, 3]; what comes in at the edge is black.

    The augmentation of He et al. (2016), section 4.2: four pixels of padding, a random crop, a random mirror.
    A posterior under augmentation is no longer exactly Bayes': the N images of the likelihood are not the
    ones seen (Izmailov et al. 2021, section 7).
    """
    height, width = images.shape[1:3]
    images = tf.where(tf.cast(moves[:, 0], tf.bool)[:, None, None, None], images[:, :, ::-1], images)
    images = tf.pad(images, [[0, 0], [REACH, REACH], [REACH, REACH], [0, 0]])
    images = tf.gather(images, moves[:, 1, None] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(images, moves[:, 2, None] + tf.range(width), axis=2, batch_dims=1)
