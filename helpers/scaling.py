"""Time training steps on ranks, with the all-reduce and without it: a point of the scaling study, as a CSV file.

    mpiexec -n 2 --bind-to core python -m helpers.scaling --model=BNN_conv_flip --batch_size=64 --output=build/scaling

`python -m cluster.scaling` measures all points of a study. Images are random: the arithmetic does not depend on them.
"""

import argparse
import json
import math
import os
import socket
import sys
import time
from pathlib import Path

from helpers import distributed, models
from helpers.fit import stepper
from helpers.store import read_csv, write_csv

import numpy as np
import psutil
import tensorflow as tf

ALLREDUCE = "all-reduce"  # in place of a model's name: nothing but the sum over ranks
IMAGES = {True: (32, 32, 3), False: (28, 28, 1)}  # of CIFAR-10, and of MNIST


def measure(functions, rounds):
    """Seconds of each function's calls, [rounds], after one call to warm up; on the slowest rank.

    All ranks begin each call together. A synchronous step ends when its slowest rank does.
    """
    for function in functions:
        function()
    seconds = np.empty([rounds, len(functions)])
    for one in range(rounds):
        for place, function in enumerate(functions):
            distributed.barrier()
            began = time.perf_counter()
            function()
            seconds[one, place] = time.perf_counter() - began
    return distributed.gather(seconds[None]).max(axis=0).T


def training(name, batch_size, steps, world, half_precision, every):
    """(step with the gradients' all-reduce, the same without it, parameters): functions of `steps` steps each."""
    shape = IMAGES[name.startswith("CIFAR10")]
    stream = np.random.default_rng(world.rank)
    x = stream.integers(0, 256, (batch_size * world.size * 4, *shape), dtype=np.uint8)
    y = stream.integers(0, 10, len(x), dtype=np.int32)
    how = {"batch_size": batch_size, "world": world}
    network = models.build(name, shape, seed=0)
    # One step in `every` is reduced. The sum of the others' gradients is left out: it costs next to nothing.
    reduced = stepper(network, x, y, steps=steps // every, half_precision=half_precision, **how)
    between = stepper(models.build(name, shape, seed=0), x, y, steps=steps - steps // every, **how | {"world": None})
    alone = stepper(models.build(name, shape, seed=0), x, y, steps=steps, **how | {"world": None})
    whole = reduced if every == 1 else lambda: (between(), reduced())
    return whole, alone, sum(math.prod(v.shape) for v in network.trainable_variables)


def reduction(parameters, steps, half_precision):
    """A function of `steps` all-reduces of that many float32 numbers, one after the other."""
    numbers = tf.Variable(tf.zeros([parameters]))

    @tf.function
    def reduce():
        for _ in tf.range(steps):
            numbers.assign(distributed.average([numbers], half_precision)[0])

    return reduce


def rows(options, world):
    """The measured point as a list of dicts, one a round."""
    if options.model == ALLREDUCE:
        parameters = options.parameters
        seconds = measure([reduction(parameters, options.steps, options.fp16)], options.rounds)
        seconds = np.vstack([seconds, np.zeros_like(seconds)])
    else:
        name = models.canonical(options.model)
        *functions, parameters = training(name, options.batch_size, options.steps, world, options.fp16, options.every)
        seconds = measure(functions, options.rounds)
    hosts = distributed.gather_objects(socket.gethostname())
    point = {
        "model": options.model if options.model == ALLREDUCE else name,
        "scaling": options.scaling,
        "setting": options.setting,
        "ranks": world.size,
        "nodes": len(set(hosts)),
        "cores": (psutil.cpu_count(logical=False) or psutil.cpu_count()) * len(set(hosts)),
        "batch_size": options.batch_size,
        "parameters": parameters,
    }
    whole, alone = (seconds / options.steps).tolist()
    return [point | {"round": i, "step": w, "alone": a} for i, (w, a) in enumerate(zip(whole, alone, strict=True))]


def read(folder):
    """All rows of all points measured in `folder`: a list of dicts, with numbers where there are numbers.

    `step` and `alone` are seconds a step, with the all-reduce and without; `cores` those of all nodes.

    Raises:
      FileNotFoundError: there is no CSV file in it.
    """
    files = sorted(Path(folder).glob("*.csv"))
    if not files:
        raise FileNotFoundError(f"{folder} has no CSV file: run `python -m cluster.scaling --output={folder}` first")
    return [row for file in files for row in read_csv(file)]


def main(argv=None):
    """Measure one point on all ranks; rank 0 writes the file. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help=f"a model of the catalogue, or {ALLREDUCE}")
    parser.add_argument("--batch_size", type=int, default=64, help="examples a step on each rank")
    parser.add_argument("--parameters", type=int, default=100_000, help=f"numbers to sum, with {ALLREDUCE}")
    parser.add_argument("--scaling", default="weak", help="weak, strong or another word, for the file alone")
    parser.add_argument("--setting", default="default", help="what else was set, a word for the file alone")
    parser.add_argument("--fp16", action="store_true", help="send gradients as float16")
    parser.add_argument("--every", type=int, default=1, help="reduce at one step in so many")
    parser.add_argument("--steps", type=int, default=10, help="steps in a round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, required=True, help="folder for the CSV file")
    options = parser.parse_args(argv)
    if min(options.batch_size, options.parameters, options.rounds, options.every) < 1 or options.steps % options.every:
        parser.error("numbers must be 1 or more, and --steps a multiple of --every")
    if options.model != ALLREDUCE:
        try:
            models.canonical(options.model)
        except ValueError as error:
            parser.error(str(error))
    world = distributed.init(int(os.environ.get("OMP_NUM_THREADS", 1)))
    found = rows(options, world)
    if world.rank == 0:
        options.output.mkdir(parents=True, exist_ok=True)
        words = [options.model, options.scaling, options.setting, world.size, options.batch_size]
        words += [options.parameters] if options.model == ALLREDUCE else []
        write_csv(options.output / ("-".join(map(str, words)).replace(" ", "_") + ".csv"), found)
        print(json.dumps(found[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
