"""Keep notebooks fit to be committed: `python -m tests.support.tidy_notebooks notebooks/*.ipynb`. pre-commit runs it.

Outputs stay. Metadata that changes with every run or editor is removed: versions of the kernel, times of execution,
collapsed and scrolled cells, states of widgets, and what MPI engines add to their outputs. Two things have to be mended
by hand, and are named: cells that were not run in order from the first to the last, and outputs with a path of the
machine that they were made on.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Folders below which machines keep what belongs to their users, at home and at the sites of cluster/sites.
_PRIVATE = (
    r"(?<![\w.-])/(home|root|work|tmp|Users|lus|projects|eagle|flare|pscratch|scratch|gpfs|var/folders)/\w[\w./-]*"
)


def tidy(notebook: dict[str, Any]) -> None:
    """Remove from a notebook, as it is read from JSON, all metadata that says nothing to its readers."""
    kept = {key: notebook["metadata"][key] for key in ("kernelspec",) if key in notebook["metadata"]}
    notebook["metadata"] = kept | {"language_info": {"name": "python"}}
    for cell in notebook["cells"]:
        cell["metadata"] = {key: value for key, value in cell["metadata"].items() if key == "tags" and value}
        for output in cell.get("outputs", ()):
            if "metadata" in output:
                # A key such as image/png holds the alternative text.
                output["metadata"] = {key: value for key, value in output["metadata"].items() if "/" in key}


def problems(notebook: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for each thing that keeps a notebook from being committed and that `tidy` cannot mend."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    counts = [cell["execution_count"] for cell in code]
    # A notebook that nobody ran has no counts. Those in notebooks/jobs/ are committed so.
    if any(counts) and counts != list(range(1, len(code) + 1)):
        yield "its cells were not run in order from the first to the last: restart the kernel and run all of them"
    for cell in code:
        if found := next(filter(None, (re.search(_PRIVATE, text) for text in _texts(cell["outputs"]))), None):
            yield f"an output of cell {cell['id']} holds the path {found[0]}: print it relative to the course's folder"


def _texts(value: Any) -> Iterator[str]:
    """Yield each text in outputs, and no pictures: letters of theirs can look like a path."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key not in ("image/png", "image/jpeg"):
                yield from _texts(each)


def main(paths: list[str]) -> int:
    """Tidy the notebooks and name their problems. Return 1 if a file was changed or has a problem."""
    status = 0
    for path in map(Path, paths):
        before = path.read_text(encoding="utf-8")
        notebook = json.loads(before)
        tidy(notebook)
        after = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"{path}: removed metadata that changes with every run", file=sys.stderr)
            status = 1
        for problem in problems(notebook):
            print(f"{path}: {problem}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
