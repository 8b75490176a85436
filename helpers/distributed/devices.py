"""Which GPU this process computes on, and how many threads it has."""

import ctypes

from helpers import keras2  # noqa: F401

import tensorflow as tf


class DeviceError(ValueError):
    """The ranks cannot share the GPUs as the launcher started them."""


def prepare(threads: int | None, inter_threads: int | None, local_rank: int = 0, launched: bool = False) -> str | None:
    """Let TensorFlow see one GPU, the one with the number of the local rank, and give it its threads.

    Call it before TensorFlow computes anything. If a node has fewer GPUs than local ranks, the numbers start again
    at 0. That is also right where the launcher shows each rank only its own GPU. TensorFlow takes memory as it needs
    it, because `helpers` sets TF_FORCE_GPU_ALLOW_GROWTH.

    Args:
      threads, inter_threads: threads within one operation, and operations that run at a time; 0 lets TensorFlow choose.
        None means 1 for a rank on a CPU, because the ranks fill the cores, and 0 otherwise. A rank on a GPU leaves its
        cores idle, and with a single thread it would load the data and launch the GPU's kernels in turn.
      local_rank: this rank's number on its node.
      launched: whether this process is one of several ranks.

    Returns:
      The PCI address of the GPU, or None if there is no GPU.

    Raises:
      RuntimeError: TensorFlow has computed already, so its devices are fixed.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if threads is None:
        threads = 1 if launched and not gpus else 0
    if inter_threads is None:
        inter_threads = min(threads, 1)
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    if inter_threads:
        tf.config.threading.set_inter_op_parallelism_threads(inter_threads)
    if not gpus:
        return None
    number = local_rank % len(gpus)
    tf.config.set_visible_devices(gpus[number], "GPU")
    return pci_address(number)


def check(taken: list[tuple[str, str | None]]) -> None:
    """Refuse GPUs on which NCCL cannot reduce. Every rank calls it with the same argument.

    Args:
      taken: (host, PCI address of the GPU or None) of each rank, in the order of the ranks.

    Raises:
      DeviceError: two ranks of a host have the same GPU, or only some of the ranks have any.
    """
    without = [rank for rank, (_, gpu) in enumerate(taken) if gpu is None]
    if 0 < len(without) < len(taken):
        raise DeviceError(
            f"rank {without[0]} on {taken[without[0]][0]} sees no GPU and other ranks do, but NCCL needs one for"
            " each rank. Start ranks only on nodes with GPUs, or hide the GPUs from all ranks (CUDA_VISIBLE_DEVICES=-1)"
        )
    for rank, (host, gpu) in enumerate(taken):
        first = taken.index((host, gpu))
        if first < rank and not without:
            ranks, gpus = sum(h == host for h, _ in taken), len({g for h, g in taken if h == host})
            raise DeviceError(
                f"ranks {first} and {rank} both compute on GPU {gpu} of {host}, where {ranks} ranks take {gpus} GPU"
                f"{'s' * (gpus > 1)}, and NCCL refuses two ranks on one GPU. Start at most one rank for each GPU of a"
                " node, and let each rank see all of them, or only its own"
            )


def pci_address(number: int) -> str:
    """Return the PCI address of the GPU that CUDA counts as `number` in this process.

    NCCL recognises a GPU by this address. Unlike the number, it is the same in processes that see different GPUs.
    TensorFlow tells it only once it occupies the GPU. If CUDA cannot be asked, the number stands in for the address.
    """
    text, device = ctypes.create_string_buffer(32), ctypes.c_int()
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return str(number)
    failed = cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), number)
    failed = failed or cuda.cuDeviceGetPCIBusId(text, len(text), device)
    return str(number) if failed else text.value.decode()
