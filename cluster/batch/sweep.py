"""Several values for one parameter: a run for each combination, and a table of what the runs came to.

A notebook hands over numbers with one line, which shows them too:

    from cluster.batch import sweep
    sweep.record(accuracy=0.97, nll=0.11)

They travel in the executed notebook, as an output of a kind of its own; what a notebook prints is not parsed. A run
of `helpers.train` that a notebook starts under $BNN_RUNS_DIR hands over the test scores of its `summary.json`.
"""

import csv
import io
import itertools
import json
import math
import numbers
import re
from dataclasses import dataclass
from pathlib import Path

KIND = "application/vnd.bnn-course.results+json"


@dataclass(frozen=True)
class Run:
    """One run of a notebook: `name` tells it from the others, `values` are what the sweep chose of `parameters`."""

    source: Path
    name: str
    parameters: dict
    values: dict


def record(**values):
    """Hand over this notebook's results: finite numbers by name. Later calls add to earlier ones.

    Raises:
      ValueError: a value is no finite number.
    """
    from IPython.display import display

    for name, value in values.items():
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ValueError(f"sweep.record takes finite numbers; {name} is {value!r}")
    plain = {
        name: int(value) if isinstance(value, numbers.Integral) else float(value) for name, value in values.items()
    }
    said = ", ".join(f"{name} {value:.4g}" for name, value in plain.items())
    display({KIND: plain, "text/plain": said}, raw=True)


def expand(parameters, swept):
    """The runs of each notebook: one for every combination of those `swept` parameters that it declares.

    Args:
      parameters: dict from a notebook's path to its parameters; those that are swept are set among them.
      swept: dict from a parameter's name to a list of its values.

    Returns:
      A list of `Run`, notebook by notebook, the last named parameter changing fastest.
    """
    runs = []
    for source, given in parameters.items():
        names = [name for name in swept if name in given]
        for choice in itertools.product(*(swept[name] for name in names)):
            values = dict(zip(names, choice, strict=True))
            told = [f"{name}={re.sub(r'[^A-Za-z0-9_.+-]+', '-', str(value))}" for name, value in values.items()]
            runs.append(Run(source, "__".join([source.stem, *told]), {**given, **values}, values))
    return runs


def results(notebook, runs_folder=None):
    """What an executed notebook recorded, and the test scores of its training runs: numbers by name."""
    found = {}
    for path in sorted(runs_folder.rglob("summary.json")) if runs_folder else []:
        for name, value in json.loads(path.read_text()).get("test", {}).items():
            found[f"{path.parent.name} {name}"] = value
    for cell in notebook.cells if notebook else []:
        for output in cell.get("outputs", []):
            found |= output.get("data", {}).get(KIND, {})
    return found


def rows(done):
    """A table's rows as dicts with the same keys: notebook, swept values, status, minutes, results.

    Args:
      done: what became of the runs: objects with source, values, ok, minutes and results.
    """
    table = [
        {
            "notebook": one.source.stem,
            **one.values,
            "status": "done" if one.ok else "failed",
            "minutes": round(one.minutes, 2),
            **one.results,
        }
        for one in done
    ]
    names = list(dict.fromkeys(name for row in table for name in row))
    return [{name: row.get(name, "") for name in names} for row in table]


def heading(title, one):
    """A run's title in the index: the notebook's, the values chosen, and what came of them."""
    parts = [", ".join(f"{name} {shown(value)}" for name, value in part.items()) for part in (one.values, one.results)]
    return title + (f"; {parts[0]}" if parts[0] else "") + (f": {parts[1]}" if parts[1] else "")


def as_csv(table):
    """The rows as CSV, with a header; every digit of a number is kept."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def as_text(table):
    """The rows as lines of columns, for a terminal: numbers with four digits."""
    cells = [list(table[0])] + [[shown(value) for value in row.values()] for row in table]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def shown(value):
    """A value as a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
