"""The start of a rank: its threads, its GPU, and Horovod.

This is the only place that decides whether a process is alone.
"""

import os
import socket

from helpers.distributed import watchdog
from helpers.distributed.world import ALONE, World
from helpers.progress import launched_rank

# Settings of the libraries below Horovod, which are made where the user has not made them.
DEFAULTS = {
    # Horovod's thread waits for other ranks on the core that computes, and Open MPI would keep that core busy.
    "OMPI_MCA_mpi_yield_when_idle": "1",
    # Under `horovodrun --gloo` ranks wait for one that is starting, which may take longer than Gloo's own 30 seconds.
    "HOROVOD_GLOO_TIMEOUT_SECONDS": "600",
}


def init(threads: int | None = None, inter_threads: int | None = None, half_precision: bool = False) -> World:
    """Give this process its threads and its GPU and, if a launcher started it, join the other ranks by Horovod.

    Call it before TensorFlow computes anything. On CPUs the default is one thread for each rank, because the ranks
    fill the cores. If the threads of a rank shared a core with another rank, all ranks would wait for it at every
    all-reduce. On nodes with GPUs each rank takes the GPU with its local rank's number.

    HOROVOD_CYCLE_TIME stays as the user has it. The Horovod that set-up compiles needs no cycle: it begins to negotiate
    as soon as a rank has a gradient (see cluster/setup/horovod.patch). On two cores, a step of BNN_FC_flip took 1.2
    times as long as one without the all-reduce, but 2.0 times with the release's cycle of 1 ms, and 1.5 times with 0.1.

    Args:
      threads, inter_threads: see `devices.prepare`.
      half_precision: send gradients as float16.

    Returns:
      A `World`, which is `ALONE` if no launcher started this process.

    Raises:
      RuntimeError: TensorFlow has computed already, so its threads and devices are fixed.
      devices.DeviceError: Horovod was built with NCCL, and there is not one GPU for each rank.
      ImportError: a launcher started this process, and Horovod is not installed.
    """
    from helpers.distributed import devices

    if launched_rank() is None:
        devices.prepare(threads, inter_threads)
        return ALONE
    for name, value in {**DEFAULTS, **watchdog.DEFAULTS}.items():
        os.environ.setdefault(name, value)
    from helpers.distributed.horovod_world import HorovodWorld, hvd

    hvd.init()
    world = HorovodWorld(half_precision)
    gpu = devices.prepare(threads, inter_threads, world.local_rank, launched=True)
    if hvd.nccl_built():
        # With MPI's operations ranks may share a GPU. The first message fixes TensorFlow's devices, so it comes last.
        devices.check(world.gather_objects((socket.gethostname(), gpu)))
    return world


def local_ranks(world: World) -> dict[int, int]:
    """Return {rank: process id} of the ranks on this host, including this one."""
    here = socket.gethostname()
    everyone = world.gather_objects((here, os.getpid()))
    return {rank: pid for rank, (host, pid) in enumerate(everyone) if host == here}
