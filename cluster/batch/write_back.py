"""Write the outputs of an executed notebook back into the notebook that it was made from."""

import json
import re
import warnings
from pathlib import Path

from helpers import ROOT, files

import nbformat


def write_outputs(source: Path, executed: nbformat.NotebookNode) -> str:
    """Replace the outputs and execution counts of a notebook, and change nothing else in it.

    Cells are matched by their order. Execution counts start at 1, as if papermill had injected no cell with parameters.
    Nothing is written if an output contains a path of this machine, because the notebook will be published. A notebook
    of format 3 is written as format 4, because its own format has no place for some outputs.

    Args:
      source: path of the notebook.
      executed: the executed notebook.

    Returns:
      The reason why nothing was written, or "".
    """
    try:
        with warnings.catch_warnings():  # nbformat warns about cells without ids, which stay as they are
            warnings.simplefilter("ignore")
            notebook = nbformat.reads(source.read_text(encoding="utf-8-sig"), 4)
    except (OSError, ValueError) as error:
        return f"not written back: {error}"
    code, ran = _code(notebook), _code(executed)
    if [cell.source for cell in code] != [cell.source for cell in ran]:
        return "not written back, because cells changed during the run; run it again"
    count = 0
    count = 0
    for cell, done in zip(code, ran, strict=True):
        cell.outputs, cell.execution_count = done.outputs, None
        if done.execution_count is not None:
            count += 1
            cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
            if "metadata" in output:
                # Alternative texts of images stay. Message numbers and times of MPI engines would change in every run.
                output.metadata = {name: value for name, value in output.metadata.items() if "/" in name}
        path = _private_path(json.dumps(cell.outputs))
        if path:
            return f"cell {done.id}: not written back, because its output contains the path {path}; print it relative"
    try:
        files.write(source.resolve(), nbformat.writes(notebook) + "\n")
    except OSError as error:
        return f"not written back: {error}"
    return ""


def _code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return the cells of code, without the one in which papermill puts parameters."""
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [cell for cell in cells if "injected-parameters" not in cell.get("metadata", {}).get("tags", [])]


def _private_path(text: str) -> str:
    """Return the first path of this machine in the text, or ""."""
    paths = {str(ROOT), str(Path.home())} - {"/"}
    return next((path for path in sorted(paths) if re.search(re.escape(path) + r"(?![\w-])", text)), "")
