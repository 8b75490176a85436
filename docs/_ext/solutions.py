"""Fold the cells of `notebooks/solutions` into the notebooks, each solution behind its exercise."""

import copy
import json
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

Cell = dict[str, Any]
EXERCISE = re.compile(r"^\*\*(\d+)\.\*\*", re.M)
SOLUTION = re.compile(r"^## (?:Exercise )?(\d+)\. *(.*)$", re.M)
LINK = re.compile(r"\[([^\]]+)\]\((solutions/[^)]+)\)")  # to a notebook that is no page of its own
FOLD = re.compile(r"\s*(<details[^>]*>\s*<summary>.*?</summary>|</details>)\s*")  # Markdown only after an empty line
HEADING = re.compile(r"^#{2,6} +(.*)$", re.M)


def setup(app: Sphinx) -> dict:
    """Connect `fold`."""
    app.connect("source-read", fold, priority=500)
    return {"parallel_read_safe": True}


def fold(app: Sphinx, docname: str, source: list[str]) -> None:
    """Fold the solutions of a notebook behind its exercises, and the code of the checks."""
    path = Path(app.srcdir, docname).parent / "solutions" / f"{Path(docname).name}_solutions.ipynb"
    if not docname.startswith("notebooks/"):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        if "check" in cell["metadata"].get("tags", []):
            cell["metadata"]["tags"].append("hide-input")
        if cell["cell_type"] == "markdown":
            cell["source"] = FOLD.sub(r"\n\n\1\n\n", LINK.sub(r"{download}`\1 <\2>`", _text(cell)))
    if path.is_file():
        app.env.note_dependency(str(path))
        solutions = json.loads(path.read_text(encoding="utf-8"))
        notebook["cells"] = joined(notebook["cells"], solutions["cells"])
    source[0] = json.dumps(notebook)


def joined(cells: list[Cell], solutions: list[Cell]) -> list[Cell]:
    """Return the cells of a notebook with those of its solutions, in folded blocks.

    Args:
      cells: cells of the notebook. Exercise N begins with `**N.**` at the start of a line below `## Exercises`.
      solutions: cells of its solutions. What comes before the first solution is folded in front of the first of them.

    Returns:
      The cells of the page. A solution whose exercise is not found follows the last exercise.
    """
    start = next((n for n, cell in enumerate(cells) if _text(cell).startswith("## Exercises")), len(cells))
    end = next((n for n in range(start + 1, len(cells)) if _text(cells[n]).startswith("## ")), len(cells))
    common, numbered = split_solutions(solutions)
    page, number = [], 0  # number of the exercise to which a cell belongs
    for cell in [part for each in cells[start:end] for part in _parts(each, EXERCISE)]:
        found = EXERCISE.match(_text(cell)) if cell["cell_type"] == "markdown" else None
        if found:
            page += _folded(numbered.pop(number, None), f"Solution of exercise {number}")
            number = int(found[1])
        page.append(cell)
    page += _folded(numbered.pop(number, None), f"Solution of exercise {number}")
    for rest in list(numbered):
        page += _folded(numbered.pop(rest), f"Solution of exercise {rest}")
    page += _folded(common, "Cells that the solutions share")
    return cells[:start] + page + cells[end:]


def split_solutions(cells: list[Cell]) -> tuple[list[Cell], dict[int, list[Cell]]]:
    """Return the cells that all solutions share, and those of each solution by its number."""
    common: list[Cell] = []
    numbered: dict[int, list[Cell]] = {}
    into = common
    for cell in [part for each in cells[1:] for part in _parts(each, SOLUTION)]:
        cell = copy.deepcopy(cell)
        if cell["cell_type"] == "markdown":
            text = _text(cell)
            if found := SOLUTION.match(text):
                into = numbered.setdefault(int(found[1]), [])
                text = SOLUTION.sub(r"**\2**", text, count=1)
            elif text.startswith("## ") or cell["id"] == "versions":
                into = common
            cell["source"] = HEADING.sub(r"**\1**", text)  # a heading would end the fold
        elif cell["id"] == "versions":
            into = common
        cell["id"] = f"solution-{cell['id']}"
        into.append(cell)
    return common, numbered


def _parts(cell: Cell, start: re.Pattern) -> list[Cell]:
    """Split a Markdown cell before each match of `start`."""
    if cell["cell_type"] != "markdown":
        return [cell]
    text = _text(cell)
    places = sorted({0, *(found.start() for found in start.finditer(text)), len(text)})
    pieces = [text[a:b] for a, b in zip(places, places[1:], strict=False)]
    return [{**cell, "source": piece, "id": f"{cell['id']}{n or ''}"} for n, piece in enumerate(pieces)]


def _folded(cells: list[Cell] | None, summary: str) -> list[Cell]:
    """Return cells between two that open and close a <details>, or nothing if there are none."""
    if not cells:
        return []
    opened = f'<details class="solution">\n<summary>{summary}</summary>'
    name = f"fold-{cells[0]['id']}"
    return [_markdown(f"{name}-start", opened), *cells, _markdown(f"{name}-end", "</details>")]


def _markdown(name: str, text: str) -> Cell:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}


def _text(cell: Cell) -> str:
    return "".join(cell["source"])
