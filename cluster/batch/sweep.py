"""Run a notebook once for each combination of parameter values, and tabulate the numbers that the runs report.

A notebook reports its results in one line, which also shows them:

    from cluster.batch import sweep
    sweep.record(accuracy=0.97, nll=0.11)

The executed notebook stores them as an output with a MIME type of its own, so printed text is not parsed. If the
notebook trains with `helpers.train` below $BNN_RUNS_DIR, the test scores in each `summary.json` are results too.
"""

import hashlib
import itertools
import json
import math
import numbers
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # notebooks import this module, and importing nbformat takes a tenth of a second
    from nbformat import NotebookNode

KIND = "application/vnd.bnn-course.results+json"
_OWN = ("notebook", "status", "minutes")  # columns of the table that are neither swept nor recorded
# Bytes of a run's name. A file system takes 255 (some take 143), and the names of files add endings and marks.
_LONGEST = 120


@dataclass(frozen=True)
class Run:
    """One run of a notebook.

    Attributes:
      source: absolute path of the notebook.
      name: what distinguishes this run from the others, and names its files.
      parameters: the parameters that papermill injects, by name.
      values: those of the parameters that the sweep chose.
    """

    source: Path
    name: str
    parameters: dict[str, Any]
    values: dict[str, Any]


@dataclass
class Result:
    """The outcome of one run.

    Attributes:
      run: the run.
      title: heading of the run in the index.
      minutes: duration.
      message: what failed, or "".
      notebook: the executed notebook as far as it got, or None if there is none.
      page: path of its HTML page, or None if there is none.
      results: what the notebook recorded, by name.
      place: path of the notebook below the output folder, or None if it is the notebook's name.
    """

    run: Run
    title: str
    minutes: float
    message: str = ""
    notebook: "NotebookNode | None" = None
    page: Path | None = None
    results: dict[str, float | str] = field(default_factory=dict)
    place: Path | None = None

    @property
    def label(self) -> str:
        """The notebook's name, with the folders that distinguish it from others of its name."""
        return (self.place or Path(self.run.source.name)).with_suffix("").as_posix()

    @property
    def ok(self) -> bool:
        """Whether the notebook ran to its end."""
        return not self.message


def record(**values: float | str) -> None:
    """Report the results of this notebook. Later calls add to earlier ones.

    Args:
      **values: finite numbers, or texts of one line such as a commit, by name.

    Raises:
      ValueError: a value is neither.
    """
    from IPython.display import display

    plain: dict[str, int | float | str] = {}
    for name, value in values.items():
        if isinstance(value, str) and len(value.splitlines()) < 2:
            plain[name] = value
        elif isinstance(value, numbers.Real) and math.isfinite(value):
            plain[name] = int(value) if isinstance(value, numbers.Integral) else float(value)
        else:
            raise ValueError(f"sweep.record takes finite numbers and texts of one line, but {name} is {value!r}")
    text = ", ".join(f"{name} {short(value)}" for name, value in plain.items())
    display({KIND: plain, "text/plain": text}, raw=True)


def expand(parameters: dict[Path, dict[str, Any]], swept: dict[str, list] | None = None) -> list[Run]:
    """List the runs of each notebook: one for each combination of the swept parameters that it declares.

    A run's name consists of the notebook's name and the swept values. It ends with a hash of the values if it cannot
    express them, if it would be too long, or if it equals another run's name on a file system that ignores case.

    Args:
      parameters: dict from a notebook's path to its parameters, which include those that are swept.
      swept: dict from a parameter's name to the list of its values.

    Returns:
      The runs, notebook by notebook. The last parameter in `swept` changes fastest.
    """
    runs, swept = [], swept or {}
    for source, given in parameters.items():
        names = [name for name in swept if name in given]
        combinations = [
            dict(zip(names, choice, strict=True)) for choice in itertools.product(*(swept[name] for name in names))
        ]
        labels = [_label(source.stem, values) for values in combinations]
        count = Counter(_folded(label) for label, _ in labels)
        for values, (label, faithful) in zip(combinations, labels, strict=True):
            if values and not (faithful and count[_folded(label)] == 1 and len(label.encode()) <= _LONGEST):
                digest = hashlib.sha256(json.dumps(values).encode()).hexdigest()[:10]
                start = label.encode()[: _LONGEST - len(digest) - 1].decode(errors="ignore")
                label = f"{start}-{digest}"
            runs.append(Run(source, label, {**given, **values}, values))
    return runs


def results(notebook: "NotebookNode | None", runs_folder: Path | None = None) -> dict[str, float | str]:
    """Collect what an executed notebook recorded and the test scores of its training runs.

    Args:
      notebook: the executed notebook, or None.
      runs_folder: the notebook's $BNN_RUNS_DIR, or None if it had none of its own.

    Returns:
      The results by name. The name of a test score starts with the name of the training run's folder.
    """
    found = {}
    for path in sorted(runs_folder.rglob("summary.json")) if runs_folder else []:
        for name, value in json.loads(path.read_text()).get("test", {}).items():
            found[f"{path.parent.name} {name}"] = value
    for cell in notebook.cells if notebook else []:
        for output in cell.get("outputs", []):
            found |= output.get("data", {}).get(KIND, {})
    return found


def rows(done: Iterable[Result]) -> list[dict[str, Any]]:
    """Return the table of a sweep, one dict a run, all with the same keys in the same order.

    The keys are the notebook, the swept parameters, status, minutes, and the results of all runs. A swept parameter or
    a result whose name is taken by another column gets a longer one, such as `noise (result)`. Swept values are texts.
    """
    done = list(done)
    swept = {name: _free(name, "swept", _OWN) for one in done for name in one.run.values}
    taken = {*_OWN, *swept.values()}
    table = [
        {
            "notebook": one.label,
            **{swept[name]: shown(value) for name, value in one.run.values.items()},
            "status": "done" if one.ok else "failed",
            "minutes": round(one.minutes, 2),
            **{_free(name, "result", taken): value for name, value in one.results.items()},
        }
        for one in done
    ]
    names = list(dict.fromkeys(name for row in table for name in row))
    return [{name: row.get(name, "") for name in names} for row in table]


def heading(title: str, values: dict[str, Any], found: dict[str, float | str]) -> str:
    """Return a run's heading in the index: the notebook's title, the swept values and the results."""
    chosen = ", ".join(f"{name} {shown(value)}" for name, value in values.items())
    came = ", ".join(f"{name} {short(value)}" for name, value in found.items())
    return title + (f"; {chosen}" if chosen else "") + (f": {came}" if came else "")


def as_text(table: list[dict[str, Any]]) -> str:
    """Format the rows as aligned columns for a terminal, numbers with four significant digits."""
    cells = [list(table[0])] + [[short(value) for value in row.values()] for row in table]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def shown(value: Any) -> str:
    """Return a parameter's value in full: a text as it is, and any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _label(stem: str, values: dict[str, Any]) -> tuple[str, bool]:
    """Return a readable name of a run, and whether it expresses all values without a change."""
    texts = {name: unicodedata.normalize("NFC", shown(value)) for name, value in values.items()}
    safe = {name: re.sub(r"[^\w.+-]+", "-", text) for name, text in texts.items()}
    return "__".join([stem, *(f"{name}={text}" for name, text in safe.items())]), safe == texts


def _folded(name: str) -> str:
    """Return what a file system that ignores case may take a name for."""
    return unicodedata.normalize("NFC", name).casefold()


def _free(name: str, kind: str, taken: Collection[str]) -> str:
    """Return the name of a column, with its kind appended until no other column has it."""
    while name in taken:
        name = f"{name} ({kind})"
    return name


def short(value: Any) -> str:
    """Return a value as text, a float with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
