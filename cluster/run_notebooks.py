"""Run notebooks in a batch with papermill, for example `python -m cluster.run_notebooks --profile quick --ranks 2`.

Executed copies, an HTML page of each notebook and an index are written to the output folder. If a notebook fails, its
partial output is kept, the remaining notebooks still run, and the exit status is 1. Inside a scheduler's job the
multi-rank notebooks use all nodes of the job. With --sweep each notebook runs once for each value, and the numbers that
the runs report (cluster/batch/sweep.py) are written as a table to sweep.csv and shown in the index.
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from cluster import allocation
from cluster.batch import execute, outputs, parameters, sources, sweep, write_back
from cluster.batch.parameters import InputError
from helpers import ROOT, files


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
      arguments: the words of the command line; by default those of this process.

    Returns:
      The exit status: 0 if all notebooks ran to their end, 1 if some did not, 2 if nothing could be run.
    """
    options = parse(arguments)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    profile = options.profile or ("full" if options.in_place else "quick")
    try:
        options.output = _expanded(options.output)
        notebooks = select(options.notebooks, options.only, options.solutions)
        given, swept = parameters.parse(options.p, options.f and _expanded(options.f), options.sweep)
        assigned = parameters.assign(notebooks, given, swept, profile)
        runs = [run for path, own, lists in assigned for run in sweep.expand({path: own}, lists)]
        ranks = allocation.ranks() if options.ranks is None else options.ranks
        if ranks < 1:
            raise InputError(f"--ranks {ranks}: expected 1 or more")
        if swept and options.in_place:
            raise InputError(
                "--in-place and --sweep exclude each other, because a notebook keeps the outputs of one run. "
                "Leave one of them out."
            )
    except (InputError, allocation.AllocationError) as error:
        print(error, file=sys.stderr)
        return 2
    results = []
    try:
        for result in execute.run(
            runs,
            output=options.output.resolve(),
            ranks=ranks,
            timeout=options.timeout,
            note=f"{time.strftime('%Y-%m-%d %H:%M')}, profile {profile}, {ranks} ranks.",
            compiling=int(os.environ.pop("BNN_COMPILING", 0)) or None,  # set by cluster/setup/setup.sh
        ):
            if options.in_place and result.notebook and result.ok:
                result.message = write_back.write_outputs(result.run.source, result.notebook)
            results.append(result)
    except outputs.OutputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return _report(results, len(runs), options.output, "runs" if swept else "notebooks")


def select(paths: Sequence[Path] = (), only: Sequence[str] | None = None, solutions: bool = False) -> list[Path]:
    """List the notebooks to run, in order.

    Args:
      paths: paths of notebooks. If there are none, all of notebooks/ are taken.
      only: beginnings of names, or None for all names.
      solutions: whether the solutions follow the notebooks of notebooks/.

    Returns:
      Absolute paths.

    Raises:
      InputError: a path does not exist, or no name has one of the beginnings.
    """
    found = [sources.located(_expanded(path)) for path in paths]
    if not found:
        found = sorted(sources.NOTEBOOKS.glob("*.ipynb"))
        found += sorted(sources.NOTEBOOKS.glob("solutions/*.ipynb")) if solutions else []
    absent = [str(path) for path in found if not path.is_file()]
    if absent or not found:
        raise InputError(f"No such notebook: {', '.join(absent) or sources.NOTEBOOKS / '*.ipynb'}")
    for start in only or []:
        if not any(path.name.startswith(start) for path in found):
            names = ", ".join(path.name for path in found)
            raise InputError(f"--only {start}: no name begins with it. The notebooks are {names}.")
    return [path for path in found if not only or path.name.startswith(tuple(only))]


def _expanded(path: Path) -> Path:
    """Replace `~` at the start of a path."""
    try:
        return files.expanded(path)
    except ValueError as error:
        raise InputError(str(error)) from error


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m cluster.run_notebooks", description=__doc__)
    add = parser.add_argument
    add("notebooks", nargs="*", type=Path, help="paths of notebooks; by default all of notebooks/, in order")
    add("--only", nargs="+", metavar="NN", help="run only notebooks whose names begin with these: --only 04 06")
    add("--solutions", action="store_true", help="also run the solutions of the exercises")
    add("--profile", choices=["quick", "full"], help="default: quick, or full with --in-place")
    add("--ranks", type=int, help="MPI ranks in multi-rank notebooks (default: 2; in a job, as many as fill it)")
    add("--output", type=Path, default=ROOT / "build", help="output folder (default: build)")
    pair = ("NAME", "VALUE")
    value = "set a parameter; its value is read as YAML 1.2, and stays as typed if the notebook's default is a text"
    add("-p", nargs=2, action="append", default=[], metavar=pair, help=value)
    file = "read parameters from a YAML file, and lists of values under `sweep:`; -p and --sweep override it"
    add("-f", type=Path, metavar="FILE", help=file)
    several = "run once for each value; several --sweep give every combination"
    add("--sweep", action="append", default=[], metavar="NAME=VALUE,VALUE", help=several)
    add("--timeout", type=float, default=3600, help="seconds that one notebook may take (default: 3600)")
    add("--in-place", action="store_true", help="write outputs back into the notebooks, so that you can commit them")
    words = list(sys.argv[1:] if arguments is None else arguments)
    for place, word in enumerate(words[2:], start=2):
        # argparse before Python 3.14 takes -1e-3 for an option. It takes a word with a space for a value.
        if words[place - 2] == "-p" and word.startswith("-") and not word.startswith(("--", "-p", "-f", "-h")):
            words[place] = f" {word}"
    return parser.parse_intermixed_args(words)


def _report(results: Sequence[sweep.Result], total: int, output: Path, what: str) -> int:
    """Print the table of a sweep, the failures and the number of runs that succeeded; return the exit status."""
    if any(result.run.values for result in results):
        print(sweep.as_text(sweep.rows(results)))
    failed = [result for result in results if not result.ok]
    for result in failed:
        chosen = "".join(f" {name}={sweep.shown(value)}" for name, value in result.run.values.items())
        print(f"{result.label}.ipynb{chosen}: {result.message}", file=sys.stderr)
    done = len(results) - len(failed)
    print(f"{done} of {total} {what} done: {output / 'index.html'}")
    return 0 if done == total else 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Treat a signal as Ctrl-C, so that the kernel and its engines are stopped."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]  # a job's output file then shows each notebook when it ends
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted before the first notebook")
