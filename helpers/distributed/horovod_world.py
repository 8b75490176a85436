"""What Horovod changes: who am I, equal starts, averaged gradients. With elastic.py, all that needs Horovod."""

import contextlib
import os
import socket
from typing import NamedTuple

from helpers.distributed import devices
from helpers.distributed import watchdog as watch
from helpers.distributed.watchdog import PeerLost

import numpy as np
import tensorflow as tf

try:
    import horovod.tensorflow as hvd
    from horovod.common.exceptions import HorovodInternalError
except ImportError as error:
    raise ImportError(
        "Horovod for TensorFlow cannot be imported: it is not installed, or was built for another "
        f"TensorFlow or MPI ({error}). See the README, 'When set-up fails'."
    ) from error


class World(NamedTuple):
    """This process among the others: rank in 0..size-1, and its rank on its own node."""

    rank: int
    size: int
    local_rank: int


def init(threads=None, inter_threads=None):
    """Start Horovod, and give this rank its threads and its GPU. Call it before TensorFlow computes anything.

    One thread a rank is the default on CPUs: ranks fill the cores, and a rank whose threads share a core with
    another rank's is waited for at every all-reduce. On nodes with GPUs each rank takes one, by its local rank.

    Args:
      threads, inter_threads: see `devices.prepare`.

    Returns:
      A `World`; launched alone, World(0, 1, 0).

    Raises:
      RuntimeError: TensorFlow has computed already, so that its threads and devices are fixed.
      devices.DeviceError: Horovod was built with NCCL, and there is not one GPU for each rank.
    """
    # Horovod's thread, on the core that computes, asks the other ranks every millisecond for news. While it waits for
    # theirs, Open MPI would keep that core busy. On two cores, steps took 1.4 times as long without this.
    os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    for name, seconds in watch.DEFAULTS.items():
        os.environ.setdefault(name, seconds)
    hvd.init()
    gpu = devices.prepare(threads, inter_threads, hvd.local_rank(), launched=True)
    if hvd.nccl_built():
        # With MPI's operations ranks may share a GPU. The first message fixes TensorFlow's devices, so it comes last.
        devices.check(gather_objects((socket.gethostname(), gpu)))
    return World(hvd.rank(), hvd.size(), hvd.local_rank())


@contextlib.contextmanager
def meeting():
    """Around what waits for the other ranks: `helpers.watch` minds how long.

    Raises:
      PeerLost: in place of the errors by which TensorFlow tells that a rank is gone, or that Horovod gave one up.
    """
    try:
        with watch.waiting():
            yield
    except (HorovodInternalError, tf.errors.UnknownError, tf.errors.AbortedError) as error:
        if isinstance(error, tf.errors.OpError) and "horovod" not in str(error).lower():
            raise
        # TensorFlow puts the names of its nodes in braces before the reason.
        raise PeerLost(str(error).strip().splitlines()[0].rpartition("}} ")[2]) from error


def neighbours():
    """{rank: process id} of the ranks on this host, this one among them."""
    here = socket.gethostname()
    everyone = gather_objects((here, os.getpid()))
    return {rank: pid for rank, (host, pid) in enumerate(everyone) if host == here}


def broadcast(variables):
    """Make `variables` equal to rank 0's on every rank: parameters and optimiser state, before step 1."""
    if hvd.size() > 1:
        with meeting():
            hvd.broadcast_variables(variables, root_rank=0)


@tf.autograph.experimental.do_not_convert  # Horovod needs no conversion, which would take two seconds
def average(gradients, half_precision=False):
    """The mean over ranks of each gradient, as one fused all-reduce inside the graph.

    Sergeev and Del Balso (2018), section 3. Where every rank's loss is its batch's mean NLL plus the same
    KL term, the mean over ranks is the gradient of the loss on the union of the batches, the KL counted once.

    Args:
      gradients: list of tensors, of the same shapes on all ranks.
      half_precision: send float16 in place of float32, half the bytes.
    """
    if hvd.size() == 1:
        return list(gradients)
    compression = hvd.Compression.fp16 if half_precision else hvd.Compression.none
    return hvd.grouped_allreduce(gradients, op=hvd.Average, compression=compression)


def barrier():
    """Wait for all ranks, as before a timing that is to begin on all of them at once."""
    with meeting():
        hvd.allreduce(tf.zeros([1]), name="barrier")


def mean(values):
    """The mean over ranks of a number or array, as a NumPy array."""
    with meeting():
        return hvd.allreduce(tf.convert_to_tensor(values), op=hvd.Average).numpy()


def gather(array):
    """Every rank's array, stacked along the first axis in the order of ranks, on every rank.

    Args:
      array: [n_rank, ...]; the first axis may differ between ranks.
    """
    with meeting():
        return hvd.allgather(tf.convert_to_tensor(array)).numpy()


def differing(variables):
    """The largest absolute difference of any element of `variables` between any two ranks; 0 if equal."""
    flat = np.concatenate([np.ravel(v.numpy()).astype(np.float64) for v in variables])
    everyone = gather(flat[None])
    return float(np.max(everyone.max(axis=0) - everyone.min(axis=0)))


def gather_objects(value):
    """Every rank's `value`, any picklable object, as a list in the order of ranks, on every rank."""
    # Not by way of the GPU, which has nothing to do with it, and which NCCL may yet refuse.
    with meeting(), tf.device("CPU:0"):
        return hvd.allgather_object(value)
