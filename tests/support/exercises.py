"""Feed answers to the self-checks of notebooks: `python -m tests.support.exercises < answers.json`.

A notebook keeps the check of exercise N in a cell that is tagged `check`. The cell sets `answer_N = None` and defines
`check_N(answer)`, which returns a text. Only the cells that the checks need are run, so that training for figures is
left out. Answers are Python expressions, which may use the notebook's own names: {PATH: {"2": ["700", "7 * 100"]}}.
The replies are printed as JSON: {PATH: {"2": ["Right.", ...]}}. An error in a check is a reply that begins with its
name, and what ends a notebook stands in place of its replies.

One process imports TensorFlow, which takes long, and a copy of it runs each notebook.
"""

import ast
import contextlib
import json
import linecache
import os
import re
import symtable
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat


def checks(path: Path) -> dict[int, str]:
    """Return the source of each self-check by the number of its exercise."""
    cells = [cell for cell in nbformat.read(path, 4).cells if "check" in cell.metadata.get("tags", ())]
    return {int(re.search(r"^def check_(\d+)\(", cell.source, re.M)[1]): cell.source for cell in cells}


def needed(cells: Sequence[str], last: Sequence[str]) -> list[str]:
    """Return those of `cells`, in their order, that define or change a name on which `last` depends.

    Calling a function of a module, such as `tf.random.set_seed(1)`, does not count as a change of the module.
    """
    wanted = set().union(*(_names(source)[2] for source in last))
    modules = set().union(*map(_imported, cells))
    kept = []
    for source in reversed(cells):
        try:
            defined, changed, used = _names(source)
        except SyntaxError:  # a cell with %%px or another magic
            continue
        if (defined | changed - modules) & wanted:
            kept.append(source)
            wanted = (wanted - defined) | used
    return kept[::-1]


def _imported(source: str) -> set[str]:
    """Return the names that a cell imports."""
    try:
        imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    except SyntaxError:
        return set()
    return {(alias.asname or alias.name).partition(".")[0] for node in imports for alias in node.names}


def _names(source: str) -> tuple[set[str], set[str], set[str]]:
    """Return the global names that a cell defines, those that it changes, and those that it takes from elsewhere."""
    defined, changed, used = set(), set(), set()
    for statement in ast.parse(source).body:
        table = symtable.symtable(ast.unparse(statement), "cell", "exec")
        here = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
        compound = not isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign)
        used |= _referenced(table) - defined - (here if compound else set())
        defined |= here
        for node in ast.walk(statement):  # x[0] = ..., x.y = ... and x.add(...) change x
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                node = node.value.func
            elif not (isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store)):
                continue
            while isinstance(node, ast.Subscript | ast.Attribute):
                node = node.value
                if isinstance(node, ast.Name):
                    changed.add(node.id)
    return defined, changed - defined, used


def _referenced(table: symtable.SymbolTable) -> set[str]:
    """Return the global names that a piece of code refers to, also within its functions."""
    top = table.get_type() == "module"
    found = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
    return found.union(*map(_referenced, table.get_children()))


def replies(path: Path, answers: dict[str, list[str]]) -> dict[str, list[str]]:
    """Run what the checks need and return what they say of each answer."""
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    before = [cell.source for cell in cells if "check" not in cell.metadata.get("tags", ())]
    own = checks(path)
    space: dict[str, Any] = {"__name__": "__main__"}
    expressions = [expression for several in answers.values() for expression in several]
    for source in [*needed(before, [*own.values(), *expressions]), *own.values()]:
        name = f"<cell {len(linecache.cache)} of {path.name}>"
        linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name  # tf.function reads it
        exec(compile(source, name, "exec"), space)
    return {n: [_reply(space, n, expression) for expression in several] for n, several in answers.items()}


def _reply(space: dict[str, Any], number: str, expression: str) -> str:
    answer = eval(compile(expression, "answer", "eval"), space)
    try:
        return space[f"check_{number}"](answer)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def in_a_copy(path: str, answers: dict[str, list[str]]) -> dict[str, list[str]] | str:
    """Return the replies of a copy of this process, or the error that has ended it."""
    with tempfile.TemporaryFile("w+") as file:
        if not (child := os.fork()):
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    found: Any = replies(Path(path), answers)
            except BaseException:
                found = traceback.format_exc()
            json.dump(found, file)
            file.flush()
            os._exit(0)
        os.waitpid(child, 0)
        file.seek(0)
        return json.loads(file.read() or '"the process was killed"')


if __name__ == "__main__":
    from helpers import keras2  # noqa: F401

    import matplotlib
    import scipy.stats  # noqa: F401
    import tensorflow_probability  # noqa: F401

    matplotlib.use("Agg")
    print(json.dumps({path: in_a_copy(path, answers) for path, answers in json.load(sys.stdin).items()}))
