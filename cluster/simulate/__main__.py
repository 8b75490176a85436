"""Simulate all-reduces on the networks of large machines, and write a table.

    python -m cluster.simulate --platforms theta --nodes 2 128 1024 --output build/simulate/allreduce.csv

Each row is one all-reduce on one network, with every assumption in a column. The command needs SimGrid, which the
course does not install. It runs no MPI and imports no TensorFlow.
"""

import argparse
import contextlib
import random
import signal
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from cluster.simulate import ranks, smpi
from helpers import ROOT, files

import psutil
from tqdm import tqdm

PLATFORMS = Path(__file__).with_name("platforms")
# The algorithms by SMPI's names.
ALGORITHMS = {name: own for name, (_, own) in ranks.ALGORITHMS.items()} | {"reduce, broadcast": "redbcast"}
BYTES = {"BNN_FC_flip": 404_264, "BNN_conv_flip": 514_856, "CIFAR10_BNN_model": 4_402_216}  # of the gradients
NETWORKS = {  # placement of the ranks, and factors for the rate and the latency of the platform file
    "contiguous": ("contiguous", 1.0, 1.0),
    "shuffled": ("shuffled", 1.0, 1.0),
    "shuffled, half speed": ("shuffled", 0.5, 2.0),
}


def platform(name: str, rate: float, latency: float) -> tuple[str, list[str], dict[str, str]]:
    """Read a platform file.

    Args:
      name: of the file in `platforms`, or the path of another one with a single cluster.
      rate: by which the rate of all links is multiplied.
      latency: by which their latency is multiplied.

    Returns:
      The text of the platform, the names of its hosts, and the attributes of its cluster.

    Raises:
      ValueError: there is no such file, it has no cluster, or something that this command needs is missing in it.
    """
    path = PLATFORMS / f"{name}.xml"
    try:
        tree = ElementTree.parse(path if path.exists() else name)
    except (OSError, ElementTree.ParseError) as error:
        known = ", ".join(sorted(path.stem for path in PLATFORMS.glob("*.xml")))
        raise ValueError(f"{name} is no platform ({error}). There are {known}, or give a file.") from error
    cluster = tree.getroot().find("cluster")
    if cluster is None:
        raise ValueError(f"{name} has no <cluster>, which gives the hosts and their links.")
    given = dict(cluster.attrib)
    try:
        first, last = map(int, given["radical"].split("-"))
        hosts = [f"{given['prefix']}{number}{given['suffix']}" for number in range(first, last + 1)]
        cluster.set("bw", _scaled(given["bw"], rate))
        cluster.set("lat", _scaled(given["lat"], latency))
    except (KeyError, ValueError) as error:
        needed = 'prefix, suffix, bw, lat and a radical such as "0-63"'
        raise ValueError(f"the <cluster> of {name} must have {needed}. The fault: {error}") from error
    head = "<?xml version='1.0'?>\n<!DOCTYPE platform SYSTEM \"https://simgrid.org/simgrid.dtd\">\n"
    return head + ElementTree.tostring(tree.getroot(), encoding="unicode"), hosts, dict(cluster.attrib)


def _scaled(text: str, factor: float) -> str:
    """Multiply a quantity with a unit, such as 5.25GBps."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return f"{float(digits) * factor:g}{text[len(digits) :]}"


def places(hosts: list[str], nodes: int, placement: str, seed: int) -> list[str]:
    """Return the host of each rank.

    Args:
      hosts: all hosts of the platform.
      nodes: how many are used, one rank on each.
      placement: "contiguous" takes the first ones in order, "shuffled" any ones in any order.
      seed: of the shuffle.
    """
    return hosts[:nodes] if placement == "contiguous" else random.Random(seed).sample(hosts, nodes)


def messages(algorithm: str, nodes: int) -> int:
    """Return about how many messages all ranks send, on which the time of a simulation depends."""
    steps = 2 * (nodes - 1) if algorithm == "ring" else 2 * max(nodes - 1, 1).bit_length()
    return nodes * steps


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sweep."""
    names = sorted(path.stem for path in PLATFORMS.glob("*.xml"))
    parser.add_argument("--platforms", nargs="+", default=names, help="names in cluster/simulate/platforms, or files")
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 8, 32, 128, 1024], help="one rank on each")
    parser.add_argument(
        "--models", nargs="+", default=list(BYTES), choices=list(BYTES), help="whose gradients are summed"
    )
    parser.add_argument("--bytes", type=int, nargs="+", help="bytes of an all-reduce, in place of models")
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS)[:3], choices=list(ALGORITHMS))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS), help="hosts and links")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffled placement")
    parser.add_argument("--overhead", type=float, default=1.0, help="microseconds that a rank needs to send a message")
    parser.add_argument("--sum", type=float, default=0.08, help="nanoseconds to add one byte of gradients")
    parser.add_argument("--eager", type=int, default=8192, help="bytes from which a message waits for its receiver")


def sweep(options: argparse.Namespace, program: Path) -> Iterator[list[dict[str, Any]]]:
    """Simulate every combination of the options, all sizes of one in a call.

    Args:
      options: those of `add_options`, and `timeout`, `most_messages` and `workers`.
      program: the compiled `replay.c`.

    Yields:
      The rows of a call, one for each size. Their `milliseconds` are empty if the call was left out or not done in
      time, and `note` says so.

    Raises:
      ValueError: a platform is unknown.
    """
    read = {key: platform(key[0], *NETWORKS[key[1]][1:]) for key in product(options.platforms, options.networks)}
    models = (
        {str(size): size for size in options.bytes} if options.bytes else {key: BYTES[key] for key in options.models}
    )

    def one(case: tuple[int, str, str, str]) -> list[dict[str, Any]]:
        nodes, name, algorithm, network = case
        text, hosts, attributes = read[name, network]
        placement, began = NETWORKS[network][0], time.monotonic()
        times, note = [], f"left out: more than {options.most_messages} messages"
        if messages(algorithm, nodes) <= options.most_messages:
            costs = smpi.Costs(options.overhead * 1e-6, options.eager, 1.0, options.sum * 1e-9)
            at = places(hosts, nodes, placement, options.seed)
            try:
                sizes, note = list(models.values()), ""
                times = smpi.simulate(program, text, at, ALGORITHMS[algorithm], sizes, costs, -1, options.timeout)
            except smpi.SimulationError as error:
                note = str(error)
        assumed = {
            "placement": placement, "seed": options.seed, "topology": attributes.get("topo_parameters", "one switch"),
            "link_rate": attributes["bw"], "link_latency": attributes["lat"], "overhead_us": options.overhead,
            "sum_ns_per_byte": options.sum, "eager_bytes": options.eager, "note": note,
            "took_seconds": round(time.monotonic() - began, 1),
        }  # fmt: skip
        return [
            {"platform": name, "nodes": nodes, "model": model, "bytes": size, "algorithm": algorithm,
             "network": network, "milliseconds": f"{times[index][1] * 1e3:.6f}" if times else "", **assumed}
            for index, (model, size) in enumerate(models.items())
        ]  # fmt: skip

    largest = {name: len(read[name, options.networks[0]][1]) for name in options.platforms}
    if too_many := [nodes for nodes in options.nodes if nodes > max(largest.values())]:
        raise ValueError(f"no platform has {too_many[0]:,} nodes; the numbers are {largest}. Ask for fewer --nodes.")
    cases = [
        case for case in product(options.nodes, options.platforms, options.algorithms, options.networks)
        if case[0] <= len(read[case[1], case[3]][1])
    ]  # fmt: skip
    with ThreadPoolExecutor(options.workers) as pool:
        try:
            yield from tqdm(pool.map(one, cases), total=len(cases), desc="simulations", disable=None)
        finally:  # what still runs after Ctrl-C or SIGTERM, for which the pool would wait
            pool.shutdown(wait=False, cancel_futures=True)
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def main(arguments: list[str] | None = None) -> int:
    """Simulate, and write the table.

    Args:
      arguments: words of the command line, None for `sys.argv`.

    Returns:
      The exit status: 0, 1 if a simulation failed or was not done in time, or 2 if none can run.
    """
    parser = argparse.ArgumentParser(prog="python -m cluster.simulate", description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--timeout", type=float, default=300, help="seconds that one simulation may take")
    parser.add_argument("--most_messages", type=int, default=300_000, help="leave out a simulation that sends more")
    parser.add_argument("--workers", type=int, default=2, help="simulations at the same time")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "simulate" / "allreduce.csv")
    options = parser.parse_args(arguments)
    if min(options.nodes) < 2 or options.workers < 1:
        parser.error("--nodes must be 2 or more, and --workers 1 or more")
    if not all(0 <= value < 1e9 for value in (options.overhead, options.sum, options.eager)):
        parser.error("--overhead, --sum and --eager must be numbers of 0 or more")
    if not 0 < options.timeout <= 1e6:
        parser.error("--timeout must be more than 0 seconds, and at most a million")
    if any(not 4 <= size <= 2**31 or size % 4 for size in options.bytes or ()):
        parser.error("--bytes must be multiples of 4, the bytes of a float32, and at most 2 GiB")
    began, rows = time.monotonic(), []
    try:
        options.output = files.expanded(options.output)
        if options.output.is_dir():
            raise ValueError(f"--output={options.output} is a folder. Give the name of the table, such as table.csv.")
        with tempfile.TemporaryDirectory(prefix="bnn-simulate-") as folder:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            for new in sweep(options, smpi.compiled(Path(folder))):
                rows += new
                files.write_csv(options.output, rows)  # what is done stays if the command is ended
    except (ValueError, OSError, smpi.SimulationError) as error:
        print(error, file=sys.stderr)
        return 2
    failed = [row for row in rows if row["note"] and not row["note"].startswith("left out")]
    for row in failed:
        print(f"{row['platform']}, {row['nodes']} nodes, {row['algorithm']}: {row['note']}", file=sys.stderr)
    print(f"{len(rows)} all-reduces in {time.monotonic() - began:.0f} s: {options.output}")
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
