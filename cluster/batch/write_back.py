"""Write the outputs of an executed notebook back into the notebook that it was made from."""

import json
import re
from pathlib import Path

from helpers import ROOT, files

import nbformat


def write_outputs(source: Path, executed: nbformat.NotebookNode) -> str:
    """Replace the outputs and execution counts of a notebook, and change nothing else in it.

    Cells are matched by their ids. Execution counts start at 1, as if papermill had injected no cell with parameters.
    Nothing is written if an output contains a path of this machine, because the notebook will be published.

    Args:
      source: path of the notebook.
      executed: the executed notebook.

    Returns:
      The reason why nothing was written, or "".
    """
    notebook = nbformat.read(source, 4)
    ran = {cell.id: cell for cell in executed.cells if cell.cell_type == "code"}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if any(cell.get("id") not in ran for cell in code):
        return "not written back, because cells changed during the run or have no ids; nbformat.v4.upgrade adds ids"
    count = 0
    for cell in code:
        cell.outputs, cell.execution_count = ran[cell.id].outputs, None
        if ran[cell.id].execution_count is not None:
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
            return f"cell {cell.id}: not written back, because its output contains the path {path}; print it relative"
    try:
        files.write(source, nbformat.writes(notebook) + "\n")
    except OSError as error:
        return f"not written back: {error}"
    return ""


def _private_path(text: str) -> str:
    """Return the first path of this machine in the text, or ""."""
    paths = {str(ROOT), str(Path.home())} - {"/"}
    return next((path for path in sorted(paths) if re.search(re.escape(path) + r"(?![\w-])", text)), "")
