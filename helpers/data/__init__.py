"""From the name of a data set to the batches of a rank."""

from helpers import keras2  # noqa: F401, I001  (before TensorFlow)
from helpers.data.augment import reflect, shift, shift_and_reflect
from helpers.data.corruptions import SEVERITIES, corrupt
from helpers.data.dataset import Dataset, load
from helpers.data.mapped import load_mapped
from helpers.data.pipeline import batches, epoch_order, normalise, shard, steps_per_epoch
from helpers.data.readers import DataError, content_sha256

__all__ = [
    "SEVERITIES",
    "DataError",
    "Dataset",
    "batches",
    "content_sha256",
    "corrupt",
    "epoch_order",
    "load",
    "load_mapped",
    "normalise",
    "reflect",
    "shard",
    "shift",
    "shift_and_reflect",
    "steps_per_epoch",
]
