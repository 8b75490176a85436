"""What several ranks do together."""

from helpers import keras2  # noqa: F401, I001  (before TensorFlow)
from helpers.distributed.horovod_world import (
    HorovodInternalError,
    World,
    average,
    barrier,
    broadcast,
    differing,
    gather,
    gather_objects,
    init,
    mean,
    meeting,
    neighbours,
)

__all__ = [
    "HorovodInternalError",
    "World",
    "average",
    "barrier",
    "broadcast",
    "differing",
    "gather",
    "gather_objects",
    "init",
    "mean",
    "meeting",
    "neighbours",
]
