"""Write what a batch run leaves: executed copies, pages, index and table. Files of anybody else stay untouched."""

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cluster.batch import mathjax, overview, pages, sweep
from helpers import files

import nbformat
from nbformat import NotebookNode

_GOOD = ".last-good"  # marks the copy of a run that succeeded, after a run that failed has taken its name
FULL = (errno.ENOSPC, errno.EDQUOT)


class OutputError(Exception):
    """The output folder cannot be used, so nothing was run. The message says why and what to do."""


@contextlib.contextmanager
def held(output: Path) -> Iterator[None]:
    """Make the output folder and keep other processes from using it."""
    with contextlib.ExitStack() as stack:
        # files.held would make a folder that only its owner can read. It also reports what goes wrong here.
        with contextlib.suppress(OSError):
            output.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(files.held(output))
        except OSError as error:
            raise OutputError(f"--output: {error}") from error
        yield


def check(output: Path, targets: Iterable[Path], sources: Iterable[Path], swept: bool) -> None:
    """Check that a run would replace nothing but what an earlier run wrote.

    Args:
      output: the output folder.
      targets: paths of the executed copies.
      sources: paths of the notebooks.
      swept: whether the run writes a table.

    Raises:
      OutputError: a file that no earlier run wrote has the name of a copy, a page, the index or the table, or two runs
        would write the same file.
    """
    sources = list(sources)
    tables = [output / "sweep.csv"] if swept else []
    copies = [path for target in targets for path in (target, target.with_suffix(".html"))]
    kept = [_good(path) for path in copies]
    if clash := sorted({path.name for path in copies} & {path.name for path in kept}):
        raise OutputError(
            f"Two runs would write the same file {clash[0]}, because the copy of an earlier good run gets this name. "
            "Rename the notebook."
        )
    for path in (*copies, *kept, output / "index.html", *tables):
        if os.path.lexists(path) and (not _ours(path) or any(_same(path, source) for source in sources)):
            raise OutputError(
                f"--output {output} would replace {path}, which no earlier batch run wrote. Choose another folder."
            )


def save(notebook: NotebookNode, page: str, ok: bool, target: Path) -> None:
    """Write an executed notebook and its page. If the run failed, keep the copy of an earlier run that succeeded.

    Args:
      notebook: the executed notebook.
      page: its page, or "" if there is none.
      ok: whether the run succeeded.
      target: path of the executed notebook, beside which the page is written.
    """
    copies = (target, target.with_suffix(".html"))
    if not ok and _papermill(target).get("exception") is False:
        for path in filter(Path.is_file, copies):
            os.replace(path, _good(path))
    files.write(target, nbformat.writes(notebook) + "\n")
    if page:
        files.write(copies[1], page)
    else:
        copies[1].unlink(missing_ok=True)  # otherwise the page of another run would pass for that of this one
    for path in copies if ok else ():
        _good(path).unlink(missing_ok=True)


def summarise(results: list[sweep.Result], output: Path, note: str) -> None:
    """Write the index of the runs so far and, for a sweep, their table."""
    if not os.path.lexists(output / pages.MATHJAX):
        files.write(output / pages.MATHJAX, mathjax.SCRIPT.read_text(encoding="utf-8"))
    files.write(output / "index.html", overview.index(results, output, note))
    if any(result.run.values for result in results):
        files.write_csv(output / "sweep.csv", sweep.rows(results))


def unwritten(error: OSError) -> str:
    """Return the message for an output that could not be written."""
    advice = "make room for it" if error.errno in FULL else "choose another --output"
    return f"the output cannot be written ({error}); {advice}"


def _good(path: Path) -> Path:
    """Return the name under which the copy of an earlier run that succeeded is kept."""
    return path.with_name(f"{path.stem}{_GOOD}{path.suffix}")


def _ours(path: Path) -> bool:
    """Return whether a batch run wrote the file."""
    if path.suffix == ".ipynb":
        # papermill itself stores the paths that it was given, and these differ from each other.
        marks = _papermill(path)
        return "exception" in marks and marks.get("input_path") == marks.get("output_path")
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            start = file.read(2000)
    except OSError:
        return False
    if path.suffix == ".csv":
        return start.startswith("notebook,") and ",status,minutes" in start.partition("\n")[0]
    # Pages and indexes of the first edition have no mark.
    return pages.MARK in start or "<h1>Executed notebooks</h1>" in start or _ours(path.with_suffix(".ipynb"))


def _papermill(copy: Path) -> dict:
    """Return what papermill has noted in an executed notebook, or an empty dict if the file is none."""
    try:
        return dict(json.loads(copy.read_text(encoding="utf-8"))["metadata"]["papermill"])
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)
