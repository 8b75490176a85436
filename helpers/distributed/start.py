"""The start of a rank: its threads, its GPU, and Horovod.

This is the only place that decides whether a process is alone.
"""

import os
import socket

from helpers.distributed import watchdog
from helpers.distributed.world import ALONE, World
from helpers.progress import launched_rank


def init(threads: int | None = None, inter_threads: int | None = None, half_precision: bool = False) -> World:
    """Give this process its threads and its GPU and, if a launcher started it, join the other ranks by Horovod.

    Call it before TensorFlow computes anything. On CPUs the default is one thread for each rank, because the ranks
    fill the cores. If the threads of a rank shared a core with another rank, all ranks would wait for it at every
    all-reduce. On nodes with GPUs each rank takes the GPU with its local rank's number.

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
    # Horovod's thread asks the other ranks for news every millisecond, on the core that computes. While it waits, Open
    # MPI would keep that core busy. On two cores, steps took 1.4 times as long without this setting.
    os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    for name, seconds in watchdog.DEFAULTS.items():
        os.environ.setdefault(name, seconds)
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
