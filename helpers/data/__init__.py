"""From the name of a data set to the batches of a rank."""

from helpers import keras2  # noqa: F401, I001  (before TensorFlow)
from helpers.data.dataset import (
    KNOWN,
    KNOWN_LABELS,
    LABEL_NAMES,
    TITLES,
    Dataset,
    batches,
    content_sha256,
    epoch_order,
    load,
    normalise,
    shard,
    steps_per_epoch,
)
from helpers.data.readers import DataError

__all__ = [
    "KNOWN",
    "KNOWN_LABELS",
    "LABEL_NAMES",
    "TITLES",
    "DataError",
    "Dataset",
    "batches",
    "content_sha256",
    "epoch_order",
    "load",
    "normalise",
    "shard",
    "steps_per_epoch",
]
