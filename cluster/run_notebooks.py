"""Run notebooks in a batch through papermill: `python -m cluster.run_notebooks --profile quick --ranks 2`.

Executed copies, one HTML page each and an index land in the output folder. A notebook that fails keeps
what it got to, the rest go on, and the exit status tells. Inside a scheduler's job the multi-rank notebooks fill the
job's nodes. With --sweep there is a run for each value, and a table of the numbers that the runs handed over
(cluster/sweep.py), in sweep.csv and on the index.
"""

import argparse
import json
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path

from cluster import allocation
from cluster.batch import execute, pages, sweep
from helpers import ROOT

import nbformat
import papermill
import yaml


class RunError(Exception):
    """Nothing was run, and the message says why."""


def main(arguments=None):
    """The command. Returns its status: 0 if all ran to their end, 1 if not, 2 if nothing could be run."""
    options = _parse(arguments)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    profile = options.profile or ("full" if options.in_place else "quick")
    try:
        notebooks = select(options.notebooks, options.only, options.solutions)
        given, swept = _given(options)
        parameters = fitting(notebooks, given, profile)
        ranks = allocation.ranks() if options.ranks is None else options.ranks
        if ranks < 1:
            raise RunError(f"--ranks {ranks}: expected 1 or more")
        if swept and options.in_place:
            raise RunError("--in-place keeps one run's outputs; with --sweep there are several")
    except (RunError, allocation.AllocationError) as error:
        print(error, file=sys.stderr)
        return 2
    results, total = [], len(sweep.expand(parameters, swept))
    try:
        for result in execute.run(
            parameters,
            output=options.output.resolve(),
            ranks=ranks,
            timeout=options.timeout,
            note=f"{time.strftime('%Y-%m-%d %H:%M')}, profile {profile}, {ranks} ranks.",
            swept=swept,
            compiling=int(os.environ.pop("BNN_COMPILING", 0)) or None,  # set by cluster/setup/setup.sh
        ):
            if options.in_place and result.ok:
                result.message = write_back(result.source, result.notebook)
            results.append(result)
    except execute.OutputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    if swept and results:
        print(sweep.as_text(sweep.rows(results)))
    failed = [result for result in results if not result.ok]
    for result in failed:
        chosen = "".join(f" {name}={value}" for name, value in result.values.items())
        print(f"{result.source.name}{chosen}: {result.message}", file=sys.stderr)
    what = "runs" if swept else "notebooks"
    print(f"{len(results) - len(failed)} of {total} {what} done: {options.output / 'index.html'}")
    return 0 if len(results) - len(failed) == total else 1


def _parse(arguments):
    parser = argparse.ArgumentParser(prog="python -m cluster.run_notebooks", description=__doc__)
    add = parser.add_argument
    add("notebooks", nargs="*", type=Path, help="paths; none means all of notebooks/, in order")
    add("--only", nargs="+", metavar="NN", help="those whose names begin so: --only 04 06")
    add("--solutions", action="store_true", help="the exercises' solutions too")
    add("--profile", choices=["quick", "full"], help="quick, or with --in-place full")
    add("--ranks", type=int, help="MPI ranks of the multi-rank notebooks (2; in a job, as many as fill it)")
    add("--output", type=Path, default=ROOT / "build", help="folder (build)")
    pair = ("NAME", "VALUE")
    add("-p", nargs=2, action="append", default=[], metavar=pair, help="a parameter, its value as YAML")
    add("-f", type=Path, metavar="FILE", help="a YAML file of parameters, under `sweep:` lists; -p and --sweep win")
    add("--sweep", action="append", default=[], metavar="NAME=VALUE,VALUE", help="a run for each value, or combination")
    add("--timeout", type=float, default=3600, help="seconds that one notebook may take (3600)")
    add("--in-place", action="store_true", help="write outputs back into the notebooks, to be committed")
    return parser.parse_intermixed_args(arguments)


def _as_interrupt(number, frame):
    raise KeyboardInterrupt


def select(paths=(), only=None, solutions=False):
    """The notebooks to run, in order, as absolute paths.

    Raises:
      RunError: a path does not exist, or a beginning in `only` fits none.
    """
    found = [Path(path).resolve() for path in paths]
    if not found:
        found = sorted(execute.NOTEBOOKS.glob("*.ipynb"))
        found += sorted(execute.NOTEBOOKS.glob("solutions/*.ipynb")) if solutions else []
    absent = [str(path) for path in found if not path.is_file()]
    if absent or not found:
        raise RunError(f"No such notebook: {', '.join(absent) or execute.NOTEBOOKS / '*.ipynb'}")
    for start in only or []:
        if not any(path.name.startswith(start) for path in found):
            raise RunError(f"--only {start}: none of {', '.join(path.name for path in found)} begins so")
    return [path for path in found if not only or path.name.startswith(tuple(only))]


def _given(options):
    """Parameters as the command line has them, and those to be swept: two dicts by name."""
    given = {}
    if options.f:
        try:
            given = yaml.safe_load(options.f.read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise RunError(f"-f {options.f}: {error}") from error
        if not isinstance(given, dict):
            raise RunError(f"-f {options.f}: expected lines such as 'epochs: 3', found {given!r:.40}")
    swept = given.pop("sweep", {})
    if not isinstance(swept, dict):
        raise RunError(f"-f {options.f}: expected 'sweep: {{epochs: [3, 5]}}', found {swept!r:.40}")
    try:
        given |= {name: yaml.safe_load(value) for name, value in options.p}
        for text in options.sweep:
            name, _, values = text.partition("=")
            swept[name.strip()] = yaml.safe_load(f"[{values}]")
    except yaml.YAMLError as error:
        raise RunError(f"-p or --sweep: {error}") from error
    swept = {name: [_number(value) for value in _several(name, values)] for name, values in swept.items()}
    # A swept parameter counts as given, so that it is looked for in the notebooks.
    given |= {name: values[0] for name, values in swept.items()}
    return {name: _number(value) for name, value in given.items()}, swept


def _several(name, values):
    """The values of a swept parameter, if they are a list of different ones."""
    if not isinstance(values, list) or not values or len({str(value) for value in values}) < len(values):
        raise RunError(
            f"--sweep {name}: expected different values, as in --sweep learning_rate=1e-3,1e-2; found {values}"
        )
    return values


def _number(value):
    """YAML takes 1e-3 for a word, because it has no point."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", value) else value


def fitting(notebooks, given, profile):
    """For each notebook, those of the parameters `given`, and `profile`, that its `parameters` cell declares.

    Raises:
      RunError: no notebook declares some name of `given`, or a notebook cannot be read.
    """
    declared = {}
    for notebook in notebooks:
        try:
            declared[notebook] = set(papermill.inspect_notebook(str(notebook)))
        except Exception as error:
            raise RunError(f"{notebook} cannot be read as a notebook: {error}") from error
    known = set().union(*declared.values())
    unknown = sorted(set(given) - known)
    if unknown:
        names = ", ".join(sorted(known)) or "none"
        raise RunError(f"No notebook has a parameter {', '.join(unknown)}. Their parameters: {names}")
    values = {"profile": profile, **given}
    return {
        notebook: {name: value for name, value in values.items() if name in names}
        for notebook, names in declared.items()
    }


def write_back(source, executed):
    """Write the outputs of `executed` into notebook `source`, and nothing else.

    Cells are told apart by their ids. Numbers count from 1, as if no parameters had been injected.

    Returns:
      What forbids it, or "": nothing is written where an output holds a path of this machine.
    """
    notebook = nbformat.read(source, 4)
    ran = {cell.id: cell for cell in executed.cells if cell.cell_type == "code"}
    count = 0
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.outputs, cell.execution_count = ran[cell.id].outputs, None
        if ran[cell.id].execution_count is not None:
            count += 1
            cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
            if "metadata" in output:
                # Alternative texts stay; engines' message numbers and times go, which no reader sees.
                output.metadata = {name: value for name, value in output.metadata.items() if "/" in name}
        written = json.dumps(cell.outputs)
        for path in {str(ROOT), str(Path.home())} - {"/"}:
            if re.search(re.escape(path) + r"(?![\w-])", written):
                return f"cell {cell.id}: not written back, as its output holds the path {path}"
    try:
        pages.write(source, nbformat.writes(notebook) + "\n")
    except OSError as error:
        return f"not written back: {error}"
    return ""


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _as_interrupt)
    sys.stdout.reconfigure(line_buffering=True)  # a job's output file shows each notebook when it ends
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted before the first notebook")
