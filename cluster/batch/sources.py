"""Read the notebooks that a batch run is given, and choose the kernel and the place of the copy of each."""

import os
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from helpers import ROOT

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from nbformat import NotebookNode

NOTEBOOKS = ROOT / "notebooks"
PYTHON = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}


class NotebookError(Exception):
    """One notebook cannot be run. The message says why and what to do."""


def located(path: Path) -> Path:
    """Return the absolute path without links to folders. A notebook that is itself a link keeps its own name."""
    return path.parent.resolve() / path.name


def read(path: Path) -> NotebookNode:
    """Read a notebook of format 3 or 4 as format 4.5.

    Cells without an id get their number as id. Saved states of widgets are left out, because they belong to outputs
    that a run replaces.

    Raises:
      NotebookError: the file is no notebook.
    """
    try:
        with warnings.catch_warnings():  # nbformat warns about cells without ids
            warnings.simplefilter("ignore")
            content = nbformat.reads(path.read_text(encoding="utf-8-sig"), 4)
        content.nbformat_minor = max(5, content.nbformat_minor)
        content.metadata.pop("widgets", None)
        for number, cell in enumerate(content.cells, start=1):
            cell.id = cell.get("id") or str(number)
            cell.setdefault("source", "")
            if cell.cell_type == "code":
                cell.setdefault("outputs", [])
                cell.setdefault("execution_count", None)
        return nbformat.from_dict(content)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise NotebookError(f"{path.name} cannot be read as a notebook: {said}") from error


def language(notebook: NotebookNode) -> str:
    """Return a notebook's language, "python" for every version of Python and for a notebook that names no kernel."""
    metadata = notebook.metadata
    kernelspec, info = (_mapping(metadata.get(name)) for name in ("kernelspec", "language_info"))
    name = str(kernelspec.get("name") or "")
    # Format 3 has the language at the top.
    stated = str(kernelspec.get("language") or info.get("name") or metadata.get("language") or "")
    stated = stated or _installed().get(name, "")
    python = re.fullmatch(r"i?python[\d.]*", stated.lower()) if stated else not name or re.search("py|conda", name)
    return "python" if python else stated or f"that of the kernel {name}"


def kernel(notebook: NotebookNode) -> dict[str, str]:
    """Return the kernelspec that runs a notebook: this environment's Python, or the notebook's own kernel.

    Raises:
      NotebookError: the notebook is not in Python, and its own kernel is not installed.
    """
    spoken = language(notebook)
    if spoken == "python":
        return PYTHON
    own = _mapping(notebook.metadata.get("kernelspec"))
    name = str(own.get("name") or "")
    if _installed().get(name, "").lower() != spoken.lower():
        wanted = f"no kernel {name} for it is" if name else "the notebook names no kernel for it that is"
        raise NotebookError(
            f"its language is {spoken}, and {wanted} installed here. Install it, or leave this notebook out."
        )
    return {"name": name, "display_name": str(own.get("display_name") or name), "language": spoken}


def places(sources: Iterable[Path]) -> dict[Path, Path]:
    """Return the path of each notebook below the output folder.

    A notebook of the course keeps its path below notebooks/, and another one its name. If two would meet, all keep
    their paths below the folder that they have in common.
    """
    found = {
        source: source.relative_to(NOTEBOOKS) if source.is_relative_to(NOTEBOOKS) else Path(source.name)
        for source in sources
    }
    if len({str(place).casefold() for place in found.values()}) < len(found):
        common = os.path.commonpath([source.parent for source in found])
        found = {source: source.relative_to(common) for source in found}
    return found


def _installed() -> dict[str, str]:
    """Return the languages of the kernels that are installed, by the kernels' names."""
    specs = KernelSpecManager().get_all_specs()
    return {name: str(one["spec"].get("language", "")) for name, one in specs.items()}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
