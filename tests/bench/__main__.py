"""A benchmark, not a test: `python -m tests.bench`, or `make bench`; what is timed is in parts.py.

Ratios are taken round by round of what took turns, so that noise cancels, and given with their quartiles. Each
process is started twice, for where its arrays come to lie in memory is a matter of luck and worth up to a third
of a small model's step. With BNN_TORCH_PYTHON, the python of an environment with torch and bayesian-torch, their
flipout layers take part. Then growth.py measures how cost and memory grow with the sizes, and roofline.py what limits
inference on this machine. Results land in build/bench as CSV and as figures.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

from helpers import ROOT, provenance
from helpers.files import write_csv
from helpers.timing import ratio

import numpy as np

# Steps of training in one timing, draws of inference.
SIZES = {"FC": (20, 300), "conv": (5, 64), "CIFAR": (2, 32)}
# (part, one over the other, at most or at least, FC, conv, CIFAR)
BARS = [
    ("train", "ours / twin", "<=", 2.4, None, 1.8),
    ("train", "ours / twin lowered alike", "<=", None, 1.1, None),
    ("train", "IVON / twin", "<=", 1.15, 1.1, 1.1),
    ("train", "IVON, 10 a call / twin, 10 a call", "", None, None, None),
    ("train", "a normal number a weight / twin", "", None, None, None),
    ("train", "stock / ours", ">=", 1.2, 1.6, 1.0),
    ("train", "stock in fit / ours", "", None, None, None),
    ("train", "bayesian-torch / ours", ">=", 1.1, 3.5, 1.4),
    ("train", "bayesian-torch / torch twin", "", None, None, None),
    ("train", "ours, 10 a call / twin, 10 a call", "", None, None, None),
    ("train", "stock, 10 a call / ours, 10 a call", "", None, None, None),
    ("inference", "Python loop of stock / ours", ">=", 30, 4, 2.6),
    ("inference", "Python loop / ours", "", None, None, None),
    ("inference", "tf.function loop / ours", "", None, None, None),
    ("inference", "ours / deterministic forwards", "<=", 0.8, 0.8, 1.05),
    ("ranks", "step / step without all-reduce", "<=", 1.3, 1.05, 1.03),
]


def child(part, arguments, size=1, timeout=600):
    """Run one part in a process of its own, or in one of each rank, and return what it found."""
    command = [sys.executable, "-m", "tests.bench.parts", json.dumps([part, *arguments])]
    if size > 1:
        command = ["mpiexec", "-n", str(size), "--bind-to", "core", *command]
    environment = {**os.environ, "BNN_BENCH_BEGAN": str(time.time()), "BNN_QUIET": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = process.communicate(timeout=timeout)
    finally:
        process.terminate()  # not kill: mpiexec then ends its ranks
        process.wait(30)
    found = [line for line in said.splitlines() if line.startswith("{")]
    if process.returncode or not found:
        raise RuntimeError(f"{part} {arguments} ended with status {process.returncode}; its message is above")
    return json.loads(found[-1])


def machine():
    """Lines that describe this machine and what runs on it."""
    cores, load = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), os.getloadavg()
    others = ("devices", "world_size", "data")
    versions = ", ".join(f"{k} {v}" for k, v in provenance.collect().items() if k not in others)
    if python := os.environ.get("BNN_TORCH_PYTHON"):
        say = "from importlib.metadata import version as v; print(v('torch') + ', bayesian-torch', v('bayesian-torch'))"
        said = subprocess.run([python, "-c", say], capture_output=True, text=True, timeout=60, check=True).stdout
        versions += ", torch " + said.strip()
    busy = "" if load[0] < 0.5 else ": NOT QUIET, times and ratios are unsure"
    return [f"{provenance.processor()}, {cores} cores, load {load[0]:.1f}{busy}", f"{platform.system()}, {versions}"]


def report(times, short, judge):
    """Medians with quartiles of one model, and ratios beside their bars: printed, and returned as rows."""
    rows, ratios = [], []
    for part, found in times.items():
        for name, seconds in found.items():
            q1, median, q3 = (round(float(q), 4) for q in np.percentile(seconds, [25, 50, 75]) * 1e3)
            row = {"part": part, "model": short, "what": name, "ms": median, "q1": q1, "q3": q3, "n": len(seconds)}
            rows.append(row)
            print(f"{part:10} {short:6} {name:26} {median:9.3f} ms  [{q1:.3f}, {q3:.3f}]")
    print()
    for part, quotient, sense, *bars in BARS:
        over, under = quotient.split(" / ")
        bar, found = bars[list(SIZES).index(short)], times.get(part, {})
        if over not in found or under not in found:
            continue
        median, q1, q3 = (round(float(q), 3) for q in ratio(found[over], found[under]))
        met = ""
        if judge and bar is not None:
            met = "met" if (median <= bar if sense == "<=" else median >= bar) else "NOT MET"
        bar = f"{sense} {bar}" if bar is not None else ""
        row = {"part": part, "model": short, "ratio": quotient, "median": median, "q1": q1, "q3": q3}
        ratios.append({**row, "bar": bar, "met": met})
        print(f"{part:10} {short:6} {quotient:36} {median:7.2f}  [{q1:.2f}, {q3:.2f}]  {bar:8} {met}")
    print(flush=True)
    return rows, ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few steps of the smallest model: does it run?")
    parser.add_argument("--parts", default="train,inference,ranks,alone,growth,roofline", help="some of: %(default)s")
    parser.add_argument("--models", default=",".join(SIZES), help="some of: %(default)s")
    parser.add_argument("--output", default=ROOT / "build" / "bench", help="folder of the tables")
    options = parser.parse_args()
    parts, shorts = options.parts.split(","), ["FC"] if options.quick else options.models.split(",")
    rounds, repeats = (2, 1) if options.quick else (12, 2)
    lines, rows, ratios, starts = machine(), [], [], []
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "machine.txt").write_text("\n".join(lines) + "\n")
    print(*lines, sep="\n", end="\n\n", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through `child`, which ends what it started
    for short in shorts:
        times, (steps, draws) = {}, (2, 4) if options.quick else SIZES[short]
        for part, count in (("train", steps), ("inference", draws), ("ranks", steps)):
            for _ in range(repeats if part in parts else 0):
                size = 2 if part == "ranks" else 1
                found = child(part, [short, rounds if part != "inference" else rounds // 2, count], size)
                for name, seconds in found.items():
                    times.setdefault(part, {}).setdefault(name, []).extend(seconds)
        for table, more in zip((rows, ratios), report(times, short, judge=not options.quick), strict=True):
            table.extend(more)
        for variant in ("ours", "stock", "twin") * repeats if "alone" in parts else ():
            starts.append({"model": short, "variant": variant, **child("alone", [short, variant])})
            print(*(f"{k} {v:.2f}," if isinstance(v, float) else v for k, v in starts[-1].items()), flush=True)
        # After each model, so that a run which is broken off leaves what it has.
        for name, table in (("times", rows), ("ratios", ratios), ("alone", starts)):
            if table:
                write_csv(folder / f"{name}.csv", table)
        print("(start-up of a run until its tenth step in seconds, memory in MB)\n" if starts else "", flush=True)
    for part, arguments in (("growth", []), ("roofline", [shorts])):
        if part in parts:
            table = child(part, [*arguments, rounds, options.quick], timeout=1200)["rows"]
            write_csv(folder / f"{part}.csv", table)
            print(*import_module(f"tests.bench.{part}").report(table, folder), sep="\n", end="\n\n", flush=True)


if __name__ == "__main__":
    main()
