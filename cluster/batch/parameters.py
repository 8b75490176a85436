"""Read the parameters of a batch run from its command line and give each notebook those that it declares."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cluster.batch import sources, sweep, values

import papermill
import yaml

_ANNOTATED: dict[str, Any] = {"bool": False, "int": 0, "float": 0.0, "str": "", "list": [], "dict": {}}


class InputError(Exception):
    """The command line asks for something that cannot be run. The message says what, why and what to change."""


def parse(
    pairs: Iterable[tuple[str, str]] = (), file: Path | None = None, sweeps: Iterable[str] = ()
) -> tuple[dict[str, yaml.Node], dict[str, list[yaml.Node]]]:
    """Parse the texts of -p, -f and --sweep.

    Args:
      pairs: name and value of each -p.
      file: the YAML file of -f: parameters by name, and under `sweep` lists of values. -p and --sweep override it.
      sweeps: the text of each --sweep, such as "rate=1e-3,1e-2".

    Returns:
      The values of the parameters by name, and the lists of values of those that are swept. `assign` turns these nodes
      of YAML into values, because the rule of `cluster.batch.values` needs the notebook's defaults.

    Raises:
      InputError: a text is no valid YAML, or a sweep has no values.
    """
    given, swept = _file(file) if file else ({}, {})
    for name, text in pairs:
        given[name] = _read(name, text)
    for text in sweeps:
        name, _, listed = text.partition("=")
        name = name.strip()
        if not listed.strip():
            raise _few(name, listed)
        try:
            swept[name] = values.split(listed)
        except ValueError as error:
            raise _malformed(name, error) from error
    return given, swept


def assign(
    notebooks: Iterable[Path], given: dict[str, yaml.Node], swept: dict[str, list[yaml.Node]], profile: str
) -> list[tuple[Path, dict[str, Any], dict[str, list]]]:
    """Give each notebook the parameters that its cell tagged `parameters` declares.

    Args:
      notebooks: paths of the notebooks.
      given: values of parameters by name (`parse`).
      swept: lists of values by name (`parse`).
      profile: the value of the parameter `profile`, unless `given` has one. No notebook has to declare it.

    Returns:
      For each notebook its path, its parameters, and the lists of values of those that are swept. A swept parameter is
      among the parameters with its first value. A notebook that cannot be read has none, and fails when it is run.

    Raises:
      InputError: no notebook declares one of the names, no file is a notebook, a value does not have the type of the
        notebook's default, or a sweep repeats a value.
    """
    declared: dict[Path, dict[str, Any]] = {}
    broken: list[InputError] = []
    for notebook in notebooks:
        try:
            declared[notebook] = _defaults(notebook)
        except InputError as error:
            declared[notebook], broken = {}, [*broken, error]
    if len(broken) == len(declared):
        raise broken[0]
    known = set().union(*declared.values())
    unknown = sorted({*given, *swept} - known)
    if unknown:
        names = ", ".join(sorted(known)) or "none"
        raise InputError(f"No notebook has a parameter {', '.join(unknown)}. Their parameters are: {names}.")
    assigned = []
    for notebook, defaults in declared.items():

        def converted(name: str, node: yaml.Node, notebook: Path = notebook, defaults: dict = defaults) -> Any:
            try:
                return values.convert(node, defaults[name])
            except (ValueError, RecursionError) as error:
                raise InputError(f"Parameter {name} of {notebook.name}: {_line(error)}.") from error

        lists = {
            name: _different(name, [converted(name, node) for node in nodes])
            for name, nodes in swept.items()
            if name in defaults
        }
        chosen = {name: converted(name, node) for name, node in given.items() if name in defaults and name not in lists}
        usual = {"profile": profile} if "profile" in defaults else {}
        assigned.append((notebook, usual | chosen | {name: listed[0] for name, listed in lists.items()}, lists))
    return assigned


def _file(path: Path) -> tuple[dict[str, yaml.Node], dict[str, list[yaml.Node]]]:
    """Read a YAML file of parameters, and the lists of values below its key `sweep`."""
    try:
        node = values.load(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"-f {path} cannot be read as YAML: {_line(error)}. The file has to be YAML or JSON in UTF-8."
        ) from error
    if node is None:
        return {}, {}
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"-f {path}: expected lines such as 'epochs: 3', found {_excerpt(node)}")
    try:
        given = values.entries(node)
        lists = given.pop("sweep", yaml.MappingNode(node.tag, []))
        if not isinstance(lists, yaml.MappingNode):
            raise InputError(f"-f {path}: expected 'sweep: {{epochs: [3, 5]}}', found {_excerpt(lists)}")
        swept = values.entries(lists)
    except ValueError as error:
        raise InputError(f"-f {path}: {error}.") from error
    for name, listed in swept.items():
        if not isinstance(listed, yaml.SequenceNode) or not listed.value:
            raise _few(name, _excerpt(listed))
    return given, {name: listed.value for name, listed in swept.items()}


def _read(name: str, text: str) -> yaml.Node:
    try:
        return values.read(text)
    except ValueError as error:
        raise _malformed(name, error) from error


def _malformed(name: str, error: ValueError) -> InputError:
    return InputError(f"-p or --sweep {name}: a value is not valid YAML ({_line(error)}). Put text in quotes.")


def _few(name: str, found: Any) -> InputError:
    return InputError(
        f"--sweep {name}: expected different values, as in --sweep learning_rate=1e-3,1e-2; found {found}"
    )


def _different(name: str, listed: list) -> list:
    """Return the values of a swept parameter, if none is repeated. The numbers 1 and 1.0 are the same value."""
    whole = [int(value) if isinstance(value, float) and value.is_integer() else value for value in listed]
    if len({sweep.shown([value]) for value in whole}) < len(listed):
        raise _few(name, ", ".join(map(sweep.shown, listed)))
    return listed


def _defaults(notebook: Path) -> dict[str, Any]:
    """Return the defaults in a notebook's cell tagged `parameters`, with None for one that is not a literal.

    papermill's own inspection reads single lines, and takes the # in `colour = "#1f77b4"` for a comment.
    """
    try:
        content = sources.read(notebook)
    except sources.NotebookError as error:
        raise InputError(str(error)) from error
    tagged = [(cell.source, cell.metadata.get("tags")) for cell in content.cells]
    cells = [source for source, tags in tagged if isinstance(tags, list) and "parameters" in tags]
    if not cells or sources.language(content) != "python":
        return {}
    try:
        statements = ast.parse(cells[0]).body
    except SyntaxError:  # a magic command
        content.metadata.kernelspec = sources.PYTHON
        return dict.fromkeys(papermill.inspect_notebook(content))
    except (TypeError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(
            f"{notebook.name}: its cell tagged parameters cannot be read as Python ({_line(error)}). Correct the cell."
        ) from error
    found: dict[str, Any] = {}
    for statement in statements:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found |= {target.id: _default(statement) for target in targets if isinstance(target, ast.Name)}
    return found


def _default(statement: ast.Assign | ast.AnnAssign) -> Any:
    """Return a literal default, or an example of the type with which the parameter is annotated."""
    if isinstance(statement, ast.AnnAssign):
        annotation = re.fullmatch(r"(?:Optional\[)?(\w+)\]?(?: \| None)?", ast.unparse(statement.annotation))
    else:
        annotation = None
    example = _ANNOTATED.get(annotation[1]) if annotation else None
    try:
        default = ast.literal_eval(statement.value)  # type: ignore[arg-type]  # the caller checks that it is there
    except (ValueError, TypeError, RecursionError, MemoryError):
        return example
    return default if default is not None and (example is None or type(default) is type(example)) else example


def _excerpt(node: yaml.Node) -> str:
    """Return the beginning of a node as text for a message."""
    text = node.value if isinstance(node, yaml.ScalarNode) else yaml.serialize(node)
    return " ".join(text.split())[:40] or "nothing"


def _line(error: Exception) -> str:
    """Return the message of an error on one line, without a full stop at its end."""
    return " ".join(str(error).split()).rstrip(".")
