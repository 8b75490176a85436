"""Time training steps on these ranks, with the all-reduce and without it, as a CSV file of a scaling study.

    mpiexec -n 2 --bind-to core python -m helpers.step_times --models BNN_conv_flip CNN_conv --output build/scaling

`python -m cluster.scaling` measures a study over numbers of ranks. Images are random: the arithmetic does not depend
on them.
"""

import argparse
import math
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import models
from helpers.distributed import ALONE, World, init
from helpers.files import write_csv
from helpers.fit import stepper

import numpy as np
import psutil
import tensorflow as tf

ALLREDUCE = "all-reduce"  # in place of a model's name: nothing but the sum over ranks


class MpiWorld(World):
    """The ranks as mpi4py sees them. Without Horovod, an all-reduce costs what MPI itself needs for it."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self._comm = MPI.COMM_WORLD
        self.rank, self.size = self._comm.rank, self._comm.size

    def gather(self, array: np.ndarray) -> np.ndarray:
        return np.concatenate(self._comm.allgather(array))

    def gather_objects(self, value: Any) -> list:
        return self._comm.allgather(value)

    def barrier(self) -> None:
        self._comm.Barrier()

    def reduction(self, parameters: int, steps: int) -> Callable[[], object]:
        """Return a function that does `steps` calls of `MPI_Allreduce` on this many float32 numbers."""
        numbers, sums = np.zeros(parameters, np.float32), np.zeros(parameters, np.float32)

        def reduce() -> None:
            for _ in range(steps):
                self._comm.Allreduce(numbers, sums)

        return reduce


def measure(functions: list[Callable], rounds: int, world: World) -> np.ndarray:
    """Measure the wall time of each function's calls on every rank, after one call to warm up.

    All ranks begin each call together. A synchronous step ends when its slowest rank ends it.

    Returns:
      Seconds [functions, rounds, ranks].
    """
    for function in functions:
        function()
    seconds = np.empty([rounds, len(functions)])
    for one in range(rounds):
        for place, function in enumerate(functions):
            world.barrier()
            began = time.perf_counter()
            function()
            seconds[one, place] = time.perf_counter() - began
    return world.gather(seconds[None]).T


def training(
    name: str, batch_size: int, steps: int, world: World, every: int
) -> tuple[Callable[[], object], Callable[[], object], int]:
    """Return two functions that take `steps` training steps, and the number of the model's parameters.

    The first function averages the gradients at one step in `every`, the second one never does.
    """
    shape = models.record(name).input_shape
    stream = np.random.default_rng(world.rank)
    x = stream.integers(0, 256, (batch_size * world.size * 4, *shape), dtype=np.uint8)
    y = stream.integers(0, 10, len(x), dtype=np.int32)
    network = models.build(name, shape, seed=0)
    # One step in `every` is reduced. The sum of the others' gradients is left out: it costs next to nothing.
    reduced = stepper(network, x, y, batch_size=batch_size, steps=steps // every, world=world)
    others = steps - steps // every
    between = stepper(models.build(name, shape, seed=0), x, y, batch_size=batch_size, steps=others, world=ALONE)
    alone = stepper(models.build(name, shape, seed=0), x, y, batch_size=batch_size, steps=steps, world=ALONE)
    whole = reduced if every == 1 else lambda: (between(), reduced())
    return whole, alone, sum(math.prod(v.shape) for v in network.trainable_variables)


def reduction(parameters: int, steps: int, world: World) -> Callable[[], object]:
    """Return a function that does `steps` all-reduces of this many float32 numbers, one after the other."""
    if isinstance(world, MpiWorld):
        return world.reduction(parameters, steps)
    numbers = tf.Variable(tf.zeros([parameters]))

    @tf.function
    def reduce():
        for _ in tf.range(steps):
            numbers.assign(world.average([numbers])[0])

    return reduce


def rows(options: argparse.Namespace, world: World) -> list[dict]:
    """Measure all points that the options name, one after the other.

    Returns:
      A dict for each point and round. `step` and `alone` are seconds for a step on the slowest rank, with the
      all-reduce and without it. `waiting` are the seconds by which the slowest rank's step without it is longer than
      that of the rank in the middle, averaged over the steps of a round. `cores` are those of all nodes; `batch_size`
      are the examples of each rank; `host` and `device` are those of rank 0.
    """
    hosts = world.gather_objects(socket.gethostname())
    cores = (psutil.cpu_count(logical=False) or psutil.cpu_count()) * len(set(hosts))
    place = {"setting": options.setting, "ranks": world.size, "nodes": len(set(hosts)), "cores": cores}
    place |= {"host": hosts[0], "device": device()}
    batches = {"weak": options.batch_size, "strong": options.global_batch // world.size}
    measured = []
    for name in () if options.mpi else options.models:
        for scaling, batch_size in batches.items():
            if batch_size:
                *functions, parameters = training(name, batch_size, options.steps, world, options.every)
                point = {"model": name, "scaling": scaling, "batch_size": batch_size, "parameters": parameters}
                measured.append((point, *measure(functions, options.rounds, world)))
    for size in options.sizes if world.size > 1 else ():
        point = {"model": ALLREDUCE, "scaling": "none", "batch_size": 0, "parameters": size}
        seconds = measure([reduction(size, options.steps, world)], options.rounds, world)
        measured.append((point, *seconds, np.zeros((options.rounds, world.size))))
    return [
        point
        | place
        | {"round": i}
        | {key: value / options.steps for key, value in _summary(whole[i], alone[i]).items()}
        for point, whole, alone in measured
        for i in range(options.rounds)
    ]


def device() -> str:
    """Return the name of the first GPU that TensorFlow sees, or "CPU"."""
    for gpu in tf.config.list_physical_devices("GPU"):
        return str(tf.config.experimental.get_device_details(gpu).get("device_name", "GPU"))
    return "CPU"


def _summary(whole: np.ndarray, alone: np.ndarray) -> dict[str, float]:
    """Return the seconds of one round from those of its ranks, [ranks] each."""
    return {"step": whole.max(), "alone": alone.max(), "waiting": alone.max() - np.median(alone)}


def main(argv: list[str] | None = None) -> int:
    """Measure on all ranks, and write the file on rank 0. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.step_times", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--models", nargs="*", default=[], help="models of the catalogue to train")
    add("--batch_size", type=int, default=64, help="weak scaling: examples a step on each rank")
    add("--global_batch", type=int, default=0, help="strong scaling: examples a step on all ranks; 0: none")
    add("--sizes", type=int, nargs="*", default=[], help="float32 numbers, to time an all-reduce of that many")
    add("--setting", default="default", help="what else was set: a word for the table")
    add("--mpi", action="store_true", help="time MPI's own all-reduce by mpi4py, without Horovod and without models")
    add("--fp16", action="store_true", help="send gradients as float16")
    add("--every", type=int, default=1, help="reduce at one step in so many")
    add("--steps", type=int, default=10, help="steps in a round")
    add("--rounds", type=int, default=15)
    add("--output", type=Path, required=True, help="folder for the CSV file")
    options = parser.parse_args(argv)
    try:
        options.models = [models.canonical(name) for name in options.models]
    except ValueError as error:
        parser.error(str(error))
    if min(options.batch_size, options.rounds, options.every, *options.sizes) < 1 or options.steps % options.every:
        parser.error("numbers must be 1 or more, and --steps a multiple of --every")
    threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or None
    world = MpiWorld() if options.mpi else init(threads, half_precision=options.fp16)
    found = rows(options, world)
    if world.rank == 0:
        options.output.mkdir(parents=True, exist_ok=True)
        write_csv(options.output / f"{options.setting}-{world.size}-ranks.csv", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
