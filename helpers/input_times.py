"""Time how the ranks of a node get their images, as one row of a CSV file.

    mpiexec -n 2 --bind-to core python -m helpers.input_times --way mapped --dataset cifar10 --place /dev/shm \
        --output build/input.csv

The ways are `copies` (each rank reads the data set and holds it), `mapped` (`data.load_mapped`: one rank reads, and all
map its files), and `records` (TFRecord shards in `--place`, which rank 0 writes first, and of which each rank reads its
own part).
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from helpers import data
from helpers.data import Dataset
from helpers.distributed import RankFailure, World, init
from helpers.files import expanded, write_csv

import numpy as np
import psutil
import tensorflow as tf

Feed: TypeAlias = tuple[tf.data.Dataset, str]
WAYS = ("copies", "mapped", "records")
SHUFFLE = 4096  # records among which one is drawn, which is all the shuffling that a stream of records allows


def write_records(dataset: Dataset, place: Path, shards: int) -> list[str]:
    """Write the training images into TFRecord files, example i into file i modulo `shards`; return their paths."""
    paths = [str(place / f"{dataset.name}-{number}-of-{shards}.tfrecord") for number in range(shards)]
    for number, path in enumerate(paths):
        with tf.io.TFRecordWriter(path) as file:
            for x, y in zip(dataset.x_train[number::shards], dataset.y_train[number::shards], strict=True):
                file.write(x.tobytes() + bytes([y]))
    return paths


def record_batches(
    paths: list[str], shape: tuple[int, ...], batch_size: int, seed: int, rank: int, size: int
) -> tf.data.Dataset:
    """Return this rank's batches of one epoch, of the form of `data.batches`, from its own part of the files.

    Args:
      paths: what `write_records` returned; at least one for each rank.
      shape: (H, W, C) of an image.
      batch_size, seed, rank, size: as in `data.batches`. N ranks do not have the examples of one rank, because a rank
        shuffles only within its own files.
    """

    def parsed(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        numbers = tf.io.decode_raw(records, tf.uint8)
        return data.normalise(tf.reshape(numbers[:, :-1], [-1, *shape])), tf.cast(numbers[:, -1], tf.int32)

    files = tf.data.Dataset.from_tensor_slices(paths).shard(size, rank)
    records = files.interleave(tf.data.TFRecordDataset, cycle_length=4, block_length=16)
    return records.shuffle(SHUFFLE, seed=seed).batch(batch_size, drop_remainder=True).map(parsed).prefetch(4)


def feed(options: argparse.Namespace, world: World, paths: list[str], shape: tuple[int, ...], what: str) -> Feed:
    """Get the data set in this way.

    Args:
      options: of the command.
      world: the ranks.
      paths, shape, what: of `records`: the files, the shape of an image and the provenance.

    Returns:
      This rank's batches of one epoch, and the provenance of the data.
    """
    if options.way == "records":
        return record_batches(paths, shape, options.batch_size, 0, world.rank, world.size), what
    if options.way == "mapped":
        dataset = data.load_mapped(options.dataset, options.place, world, quiet=True)
    else:
        dataset = data.load(options.dataset, quiet=True)
    size, rank = world.size, world.rank
    x, y = dataset.x_train, dataset.y_train
    return data.batches(x, y, batch_size=options.batch_size, seed=0, epoch=0, rank=rank, size=size), dataset.provenance


def measure(options: argparse.Namespace, world: World) -> dict[str, float | int | str]:
    """Time the way from the start to the first batch, and then an epoch of batches.

    Returns:
      A row. `first_s` and `epoch_s` are seconds on the slowest rank; the first one does not contain what is done once,
      such as writing shards. `memory_mb` is what a rank's memory grew by, with shared pages divided among the ranks,
      and `read_mb` what all ranks together have read from files, without what a map brings into memory.
    """
    process, made = psutil.Process(), []

    def write() -> None:
        dataset = data.load(options.dataset, quiet=True)
        made.extend([write_records(dataset, options.place, 4 * world.size), dataset.input_shape, dataset.provenance])

    if options.way == "records":
        world.on_first(write)  # once for many jobs
    paths, shape, what = world.gather_objects(made)[0] or [[], (), ""]
    next(iter(tf.data.Dataset.range(2).batch(2)))  # TensorFlow's own threads and memory
    world.barrier()
    before, asked, began = process.memory_full_info().pss, process.io_counters().read_chars, time.perf_counter()
    batches: Iterator = iter(())
    failure: Exception | None = None
    try:
        examples, provenance = feed(options, world, paths, shape, what)
        batches = iter(examples)
        next(batches)
    except StopIteration:
        failure = ValueError(f"--batch_size={options.batch_size} is more than a rank has examples")
    except (OSError, data.DataError, RankFailure) as error:
        failure = error
    first = time.perf_counter() - began
    world.agree(failure)
    began, number = time.perf_counter(), 0
    for x, _ in batches:
        number += len(x)
    taken = time.perf_counter() - began
    grown, read = process.memory_full_info().pss - before, process.io_counters().read_chars - asked
    firsts, epochs, numbers, memory, files = world.gather(np.array([[first, taken, number, grown, read]], float)).T
    return {
        "way": options.way, "data": provenance, "ranks": world.size, "batch_size": options.batch_size,
        "first_s": firsts.max(), "epoch_s": epochs.max(), "images": int(numbers.sum()),
        "memory_mb": memory.mean() / 1e6, "read_mb": files.sum() / 1e6,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Measure on all ranks, and write the row on rank 0. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.input_times", description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--dataset", default="cifar10", help="a name that data.load knows")
    parser.add_argument("--place", type=Path, required=True, help="a folder on a disk or in the memory of each node")
    parser.add_argument("--batch_size", type=int, default=64, help="examples a step on each rank")
    parser.add_argument("--output", type=Path, required=True, help="the CSV file")
    options = parser.parse_args(argv)
    if options.batch_size < 1:
        parser.error("--batch_size must be 1 or more")
    world, failure = init(1), None  # type: tuple[World, Exception | None]
    with contextlib.ExitStack() as stack:
        try:
            options.output = expanded(options.output)
            options.output.parent.mkdir(parents=True, exist_ok=True)
            if world.rank == 0:  # for the shards, which are removed at the end
                place = stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="bnn-input-", dir=expanded(options.place))
                )
                options.place = Path(place)
        except (OSError, ValueError) as error:
            failure = error
        try:
            world.agree(failure)
            row = measure(options, world)
            if world.rank == 0:
                write_csv(options.output, [row])
        except (OSError, ValueError, data.DataError, RankFailure) as error:
            failure = error
    if failure is not None and world.rank == 0:
        print(f"helpers.input_times: {failure}", file=sys.stderr)
    return int(failure is not None)


if __name__ == "__main__":
    sys.exit(main())
