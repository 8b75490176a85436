"""Read the parameters of a batch run from its command line and give each notebook those that it declares."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import papermill
import yaml


class InputError(Exception):
    """The command line asks for something that cannot be run. The message says what, why and what to change."""


def parse(
    pairs: Iterable[tuple[str, str]] = (), file: Path | None = None, sweeps: Iterable[str] = ()
) -> tuple[dict[str, Any], dict[str, list]]:
    """Turn the texts of -p, -f and --sweep into values.

    Args:
      pairs: name and value of each -p. The value is read as YAML.
      file: the YAML file of -f: parameters by name, and under `sweep` lists of values. -p and --sweep override it.
      sweeps: the text of each --sweep, such as "rate=1e-3,1e-2".

    Returns:
      The values of all parameters by name, and the lists of values of those that are swept. A swept parameter is in
      both, with its first value in the former, so that `assign` looks for it in the notebooks.

    Raises:
      InputError: a text is no valid YAML, or a sweep has no values or repeats one.
    """
    values = _file(file) if file else {}
    swept = values.pop("sweep", {})
    if not isinstance(swept, dict):
        raise InputError(f"-f {file}: expected 'sweep: {{epochs: [3, 5]}}', found {swept!r:.40}")
    try:
        values |= {name: yaml.safe_load(value) for name, value in pairs}
        for text in sweeps:
            name, _, listed = text.partition("=")
            swept[name.strip()] = yaml.safe_load(f"[{listed}]")
    except (ValueError, yaml.YAMLError) as error:  # a date that no calendar has is a ValueError
        raise InputError(f"-p or --sweep: a value is not valid YAML ({_line(error)}). Put text in quotes.") from error
    swept = {name: _different(name, listed) for name, listed in swept.items()}
    values |= {name: listed[0] for name, listed in swept.items()}
    return {name: _number(value) for name, value in values.items()}, swept


def assign(notebooks: Iterable[Path], values: dict[str, Any], profile: str) -> dict[Path, dict[str, Any]]:
    """Give each notebook the parameters that its cell tagged `parameters` declares.

    Args:
      notebooks: paths of the notebooks.
      values: parameters by name.
      profile: the value of the parameter `profile`, unless `values` has one. No notebook has to declare it.

    Returns:
      A dict from each notebook's path to its parameters.

    Raises:
      InputError: no notebook declares one of the names, or a file is no notebook.
    """
    declared = {}
    for notebook in notebooks:
        try:
            declared[notebook] = set(papermill.inspect_notebook(str(notebook)))
        except Exception as error:
            raise InputError(f"{notebook} cannot be read as a notebook: {_line(error)}") from error
    known = set().union(*declared.values())
    unknown = sorted(map(str, set(values) - known))
    if unknown:
        names = ", ".join(sorted(known)) or "none"
        raise InputError(f"No notebook has a parameter {', '.join(unknown)}. Their parameters are: {names}.")
    return {
        notebook: {name: value for name, value in {"profile": profile, **values}.items() if name in names}
        for notebook, names in declared.items()
    }


def _file(path: Path) -> dict[str, Any]:
    """Read a YAML file of parameters."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"-f {path} cannot be read as YAML: {_line(error)}") from error
    if not isinstance(values, dict):
        raise InputError(f"-f {path}: expected lines such as 'epochs: 3', found {values!r:.40}")
    return values


def _different(name: str, values: Any) -> list:
    """Return the values of a swept parameter, if they are a list without repetition."""
    numbers = [_number(value) for value in values] if isinstance(values, list) else []
    if not numbers or len({str(value) for value in numbers}) < len(numbers):
        raise InputError(
            f"--sweep {name}: expected different values, as in --sweep learning_rate=1e-3,1e-2; found {values}"
        )
    return numbers


def _number(value: Any) -> Any:
    """Return a float for text such as 1e-3 or 1.5e3, which YAML 1.1 reads as text, and other values unchanged."""
    written = isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", value)
    return float(value) if written else value


def _line(error: Exception) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split())
