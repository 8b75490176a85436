"""Read values of parameters as YAML 1.2 reads them, and compare them with the defaults of a notebook.

PyYAML implements YAML 1.1, in which 010 is 8, NO is false, 1:30 is 90 and 1e-3 is a text. Its parser is used here with
the types of the core schema of YAML 1.2.2 (section 10.3.2). Values stay nodes of YAML until the default is known,
because a text such as 007 is kept as it was typed if the default is a text.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import yaml

_OPENING = ("[", "{", '"', "'")  # where a value of the command line begins with one of them, it is parsed as YAML
_TAG = "tag:yaml.org,2002:"
_CORE = {
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_KINDS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    tuple: "a list",
    set: "a list",
    dict: "a mapping",
}


class _Loader(yaml.SafeLoader):
    """A loader that gives plain scalars the types of YAML 1.2."""

    yaml_implicit_resolvers: dict = {}


for _name, _pattern in _CORE.items():  # the first that matches is taken
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), None)


def load(text: str | bytes) -> yaml.Node | None:
    """Parse a YAML or JSON document: a text, or bytes in UTF-8, or in UTF-16 with a byte order mark.

    Returns:
      The node of the document, or None if it is empty.

    Raises:
      ValueError: the text is not valid YAML.
    """
    try:
        return yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def read(text: str) -> yaml.Node:
    """Read one value of the command line.

    A value that begins with a bracket, a brace or a quote is parsed as YAML. In any other value the characters `#`, `:`
    and `,` are a part of it.

    Raises:
      ValueError: the text begins with a bracket, a brace or a quote, and is not valid YAML.
    """
    text = text.strip()
    if text.startswith(_OPENING):
        return load(text)
    tag = _Loader("").resolve(yaml.ScalarNode, text, (True, False)) if text else f"{_TAG}str"
    return yaml.ScalarNode(tag, text)


def split(text: str) -> list[yaml.Node]:
    """Read values that commas separate. A comma within brackets, braces or quotes belongs to its value.

    Raises:
      ValueError: a value is empty, or `read` refuses it.
    """
    pieces, nodes = text.split(","), []
    while pieces:
        item = pieces.pop(0)
        if not item.strip():
            raise ValueError("there is nothing before or after a comma")
        while True:
            try:
                nodes.append(read(item))
                break
            except ValueError:
                if not pieces:
                    raise
                item += f",{pieces.pop(0)}"
    return nodes


def convert(node: yaml.Node, default: Any = None) -> Any:
    """Return the value of a node for a parameter with this default.

    Args:
      node: the node of the value (`load`, `read` or `split`).
      default: the notebook's default. None accepts values of every type.

    Returns:
      null, a bool, an int, a float, a text, a list or a dict with texts as keys. Where the default is a text, a value
      that has no quotes is the text as typed, unless it is null. The same holds for the elements of a list of texts.

    Raises:
      ValueError: the type of the value is not that of the default, or the value cannot be expressed in JSON.
    """
    found: Any
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        examples = list(default) if isinstance(default, (list, tuple, set)) else []
        alike = len({_KINDS.get(type(example)) for example in examples}) == 1
        found = [convert(child, examples[0] if alike else None) for child in node.value]
    elif isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
        known = default if isinstance(default, dict) else {}
        found = {name: convert(child, known.get(name)) for name, child in entries(node).items()}
    else:
        found = _scalar(node, isinstance(default, str))
    wanted = _KINDS.get(type(default))
    if wanted and found is not None and wanted != _KINDS[type(found)]:
        raise ValueError(
            f"{found!r:.60} is {_KINDS[type(found)]}, but the notebook's default {default!r:.60} is {wanted}. "
            f"Give {wanted}"
        )
    return found


def entries(node: yaml.MappingNode) -> dict[str, yaml.Node]:
    """Return the nodes of a mapping by key.

    Raises:
      ValueError: a key is not a text, or is there twice.
    """
    found: dict[str, yaml.Node] = {}
    for key, child in node.value:
        if key.tag != f"{_TAG}str":
            raise ValueError(f"the key {key.value!r:.60} is not a text. Put it in quotes")
        if key.value in found:
            raise ValueError(f"the key {key.value!r:.60} is there twice. Remove one of them")
        found[key.value] = child
    return found


def _scalar(node: yaml.Node, as_text: bool) -> Any:
    """Return the value of a scalar. `as_text` keeps one that has no quotes as typed."""
    kind = node.tag.removeprefix(_TAG)
    if kind == "null" and not node.value:
        raise ValueError("it has no value: nothing stands there, or # begins a comment. Write null, or use quotes")
    if as_text and not node.style and kind in ("bool", "int", "float"):
        kind = "str"
    if kind not in _SCALARS:
        raise ValueError(f"YAML 1.2 has no type {node.tag} among its core types. Leave the tag out")
    return _SCALARS[kind](node.value)


def _integer(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _float(text: str) -> float:
    named = text.lower().endswith((".inf", ".nan"))
    value = float(text.replace(".", "") if named else text)
    if math.isinf(value) and not named:
        raise ValueError(f"{text} is larger than any float. Write .inf for infinity")
    return value


def _text(text: str) -> str:
    """Return a text, with the pairs of surrogates in which JSON may write a character joined."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise ValueError(f"{text!r:.60} is not valid Unicode. Give the text in UTF-8") from None


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": _integer,
    "float": _float,
    "str": _text,
}
