"""Hold simulated all-reduces against all-reduces that were timed on ranks of this machine.

    python -m cluster.simulate.validate --settings 2,1,0.1 4,2,0.2 2 4      # as root, on idle cores
    python -m cluster.simulate.validate --measured build/simulate/measured.csv

A setting is a number of ranks, for shared memory, or ranks, milliseconds and Gbit/s for hosts in network namespaces.
Only messages, sums and a few all-reduces are used for calibration. The table says which rows these are.
"""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cluster.simulate import measure, namespaces, ranks, smpi
from helpers import ROOT, files

import numpy as np

SIZES = [1 << power for power in range(10, 25, 2)]  # 1 KB to 16 MB
CALIBRATION = (1.0, 0.1)  # milliseconds and Gbit/s at which the cost of a message is calibrated
NEVER = 1 << 25  # as eager_bytes: no message of these sizes waits for its receiver
_PAYLOAD = 1448 / 1538  # of an Ethernet packet of 1,500 bytes, whose headers, checksum and gap also take time
_HEADER = 36  # bytes that Open MPI adds to a message, so that 64 KB no longer fit its limit of 64 KB
_SETTING = ("medium", "ranks", "delay_ms", "rate_gbit", "eager_bytes", "algorithm")
_MIDDLE = 1 << 18  # bytes at which rate and sums are calibrated for shared memory


def measured(setting: str) -> list[dict[str, Any]]:
    """Time the all-reduces of one setting with every algorithm.

    Args:
      setting: "RANKS" or "RANKS,MILLISECONDS,GBIT".

    Returns:
      Rows of `ranks.measure` with the setting in them.

    Raises:
      ValueError: the setting has another form.
    """
    found, rows = re.fullmatch(r"([1-9]\d*)(?:,([\d.]+),([\d.]+))?", setting), []
    if not found:
        raise ValueError(f"{setting} is no setting. Give RANKS for shared memory, or RANKS,MILLISECONDS,GBIT.")
    size, delay, rate = int(found[1]), float(found[2] or 0), float(found[3] or 0)
    where = {"medium": "namespaces" if rate else "shared memory", "ranks": size, "delay_ms": delay, "rate_gbit": rate}

    def each(hosts: list[namespaces.Host] | None) -> None:
        for index, algorithm in enumerate(ranks.ALGORITHMS):
            what = measure.WHAT if size == 2 and not index else measure.WHAT[:1]
            margin, eager = 0.01 + delay * 8e-3, NEVER if hosts else 4096
            for row in ranks.measure(size, algorithm, SIZES, hosts, what, margin=margin, eager_bytes=eager):
                rows.append({**where, "eager_bytes": eager, "algorithm": algorithm, **row})

    if not rate:
        each(None)
    else:
        with namespaces.network(size, delay * 1e-3, rate * 1e9) as hosts:
            each(hosts)
    return rows


def _seconds(rows: Sequence[dict[str, Any]], **wanted: Any) -> float:
    """Return the median of the fastest row that has these values, in seconds.

    Raises:
      ValueError: there is no such row.
    """
    found = [row["seconds"] for row in rows if all(row[key] == value for key, value in wanted.items())]
    if not found:
        raise ValueError(f"nothing was measured for the calibration: {wanted}")
    return min(found)


def network(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> tuple[float, float, smpi.Costs]:
    """Return the delay, the rate and the costs with which a row is simulated.

    Between hosts, delay, rate and the size of packets are known. What a message costs the processors is calibrated for
    each number of ranks by the all-reduce of 1 KB, because the ranks share the cores. In shared memory, everything
    is calibrated on two ranks, and takes longer in proportion where ranks share a core.

    Args:
      row: of an all-reduce.
      rows: all rows.

    Returns:
      Seconds, bits a second, and costs.
    """
    size, smallest = row["ranks"], SIZES[0]
    sums = _seconds(rows, what="sum", bytes=_MIDDLE << 2) / (_MIDDLE << 2)
    if row["medium"] == "namespaces":
        delay, rate = CALIBRATION
        known = {"medium": "namespaces", "delay_ms": delay, "rate_gbit": rate, "ranks": size, "what": "allreduce"}
        steps = np.log2(size)
        total = _seconds(rows, **known, algorithm="recursive doubling", bytes=smallest) / steps
        overhead = max(total - delay * 1e-3 - smallest * 8 / (rate * 1e9 * _PAYLOAD), 0.0)
        costs = smpi.Costs(0.0, row["eager_bytes"] - _HEADER, _PAYLOAD, sums)
        return row["delay_ms"] * 1e-3 + overhead, row["rate_gbit"] * 1e9, costs
    shared = {"medium": "shared memory", "ranks": 2}
    crowd = max(size / len(os.sched_getaffinity(0)), 1.0)
    latency = _seconds(rows, **shared, what="message", bytes=smallest)
    message = _seconds(rows, **shared, what="message", bytes=_MIDDLE)
    whole = _seconds(rows, **shared, what="allreduce", algorithm="recursive doubling", bytes=_MIDDLE)
    costs = smpi.Costs(0.0, NEVER, 1.0, (whole - message) / _MIDDLE * crowd)
    return latency * crowd, _MIDDLE * 8 / (message - latency) / crowd, costs


def is_calibration(row: dict[str, Any]) -> bool:
    """Return whether `network` uses a row of an all-reduce."""
    if row["algorithm"] != "recursive doubling":
        return False
    if row["medium"] == "namespaces":
        return row["bytes"] == SIZES[0] and (row["delay_ms"], row["rate_gbit"]) == CALIBRATION
    return row["bytes"] == _MIDDLE and row["ranks"] == 2


def compared(rows: Sequence[dict[str, Any]], program: Path, workers: int = 2) -> list[dict[str, Any]]:
    """Simulate what was measured.

    Args:
      rows: of `measured`.
      program: what `smpi.compiled` returned.
      workers: simulations at the same time.

    Returns:
      One row for each all-reduce, with the error of the simulation in per cent of the measured time.
    """

    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        if row["what"] == "allreduce":
            groups.setdefault(tuple(row[key] for key in _SETTING), []).append(row)

    def one(group: list[dict[str, Any]]) -> list[dict[str, Any]]:
        delay, rate, costs = network(group[0], rows)
        hosts = [f"node-{index}" for index in range(group[0]["ranks"])]
        name, sizes = ranks.ALGORITHMS[group[0]["algorithm"]][1], [row["bytes"] for row in group]
        found = smpi.simulate(program, smpi.cluster(len(hosts), delay, rate), hosts, name, sizes, costs, -1)
        return [
            {
                **{key: row[key] for key in (*_SETTING, "bytes", "repeats")},
                **{f"measured_{key}_ms": _ms(row[key]) for key in ("low", "high")},
                "measured_ms": _ms(row["seconds"]), "simulated_ms": _ms(seconds),
                "error_percent": round(100 * (seconds / row["seconds"] - 1), 1),
                "calibration": int(is_calibration(row)), "simulated_delay_us": round(delay * 1e6, 2),
                "simulated_rate_gbit": round(rate * costs.bandwidth / 1e9, 4),
                "sum_ns_per_byte": round(costs.sum * 1e9, 4),
            }
            for row, (_, seconds, _) in zip(group, found, strict=True)
        ]  # fmt: skip

    with ThreadPoolExecutor(workers) as pool:
        return [row for found in pool.map(one, groups.values()) for row in found]


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 6)


def main(arguments: list[str] | None = None) -> int:
    """Measure and compare, and print the median error of what was not used for calibration.

    Args:
      arguments: words of the command line, None for `sys.argv`.

    Returns:
      The exit status: 0, or 2 if nothing can be measured or simulated.
    """
    parser = argparse.ArgumentParser(prog="python -m cluster.simulate.validate", description=__doc__.splitlines()[0])
    parser.add_argument("--settings", nargs="+", default=[], help="RANKS, or RANKS,MILLISECONDS,GBIT")
    parser.add_argument("--measured", type=Path, help="read this table and measure nothing")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "simulate" / "validation.csv")
    options = parser.parse_args(arguments)
    reason = smpi.missing() or (namespaces.missing() if any("," in one for one in options.settings) else None)
    if reason or bool(options.settings) == bool(options.measured):
        print(reason or "give --settings or --measured", file=sys.stderr)
        return 2
    try:
        rows = files.read_csv(options.measured) if options.measured else []
        rows += [row for setting in options.settings for row in measured(setting)]
        options.output.parent.mkdir(parents=True, exist_ok=True)
        if options.settings:
            files.write_csv(options.output.with_name("measured.csv"), rows)
        with tempfile.TemporaryDirectory(prefix="bnn-simulate-") as folder:
            table = compared(rows, smpi.compiled(Path(folder)))
    except (ValueError, RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    files.write_csv(options.output, table)
    errors = [abs(row["error_percent"]) for row in table if not row["calibration"]]
    print(f"median error of {len(errors)} predictions: {np.median(errors):.1f} %, largest: {max(errors):.0f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
