"""The world of several ranks by Horovod.

This file and train/elastic.py are the only ones that import Horovod.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from helpers import keras2  # noqa: F401
from helpers.distributed import watchdog
from helpers.distributed.world import PeerLost, World

import numpy as np
import tensorflow as tf

try:
    import horovod.tensorflow as hvd
    from horovod.common.exceptions import HorovodInternalError
except ImportError as error:
    raise ImportError(
        "Horovod for TensorFlow cannot be imported, because it is not installed or was built for another TensorFlow or "
        f"MPI ({error}). See the README, 'Set-up'."
    ) from error


class HorovodWorld(World):
    """The ranks that Horovod has joined. Call `helpers.distributed.init` to get it.

    Args:
      half_precision: send gradients as float16, which halves the bytes of each all-reduce.
    """

    def __init__(self, half_precision: bool = False):
        self.rank, self.size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()
        self._compression = hvd.Compression.fp16 if half_precision else hvd.Compression.none

    @tf.autograph.experimental.do_not_convert  # Horovod needs no conversion, which would take two seconds
    def average(self, tensors: list) -> list:
        """Average each tensor over the ranks with one fused all-reduce (Sergeev and Del Balso 2018, section 3).

        The loss of every rank is the mean NLL of its batch plus the same KL term. Therefore the mean of the gradients
        over the ranks is the gradient of the loss on the union of their batches, with the KL counted once.
        """
        if self.size == 1:
            return list(tensors)
        return hvd.grouped_allreduce(tensors, op=hvd.Average, compression=self._compression)

    def mean(self, value: Any) -> np.ndarray:
        with self.collective():
            return hvd.allreduce(tf.convert_to_tensor(value), op=hvd.Average).numpy()

    def gather(self, array: np.ndarray) -> np.ndarray:
        with self.collective():
            return hvd.allgather(tf.convert_to_tensor(array)).numpy()

    def gather_objects(self, value: Any) -> list:
        # On the CPU, because NCCL may yet refuse this job's GPUs.
        with self.collective(), tf.device("CPU:0"):
            return hvd.allgather_object(value)

    def broadcast(self, variables: list) -> None:
        if self.size > 1:
            with self.collective():
                hvd.broadcast_variables(variables, root_rank=0)

    def barrier(self) -> None:
        with self.collective():
            hvd.allreduce(tf.zeros([1]), name="barrier")

    @contextlib.contextmanager
    def collective(self) -> Iterator[None]:
        try:
            with watchdog.waiting():
                yield
        except (HorovodInternalError, tf.errors.UnknownError, tf.errors.AbortedError) as error:
            if isinstance(error, tf.errors.OpError) and "horovod" not in str(error).lower():
                raise
            # TensorFlow puts the names of its nodes in braces before the reason.
            raise PeerLost(str(error).strip().splitlines()[0].rpartition("}} ")[2]) from error
