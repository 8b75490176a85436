"""Read flagfiles as people edit them: on Windows, with comments after values, and with quotes around values."""

import codecs
import os
import re
from collections.abc import Sequence
from pathlib import Path

from helpers.files import expanded

from absl import flags

_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def arguments(argv: Sequence[str], within: tuple[Path, ...] = ()) -> list[str]:
    """Return the arguments with each --flagfile replaced by the arguments in that file.

    A line of the file is one argument. Lines that begin with `#` or `//` are comments, and so is the rest of a line
    from a `#` that follows a blank. A value in quotes is taken as it is between them.

    Args:
      argv: arguments of the command.
      within: the flagfiles from which they come.

    Raises:
      absl.flags.Error: a flagfile is missing, is not a text, or includes itself.
    """
    found: list[str] = []
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*found, argument, *rest]
        match = re.fullmatch(r"--?flagfile(=(.*))?", argument, re.DOTALL)
        if not match:
            found.append(argument)
            continue
        if match[1] is None and not rest:
            raise flags.IllegalFlagValueError("--flagfile needs the name of a file")
        if name := rest.pop(0) if match[1] is None else match[2]:
            found += arguments(*_read(name, within))
    return found


def _read(name, within):
    """Return the arguments in the flagfile, and the flagfiles from which they come."""
    try:
        path = expanded(name)
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise flags.CantOpenFlagFileError(f"the flagfile cannot be read: {error}") from error
    if path.resolve() in within:
        raise flags.Error(f"the flagfile {path} includes itself")
    mark = next((mark for mark in _MARKS if content.startswith(mark)), b"")
    try:
        text = content[len(mark) :].decode(_MARKS.get(mark, "utf-8"))
        if "\0" in text:
            raise ValueError("it has null characters")
    except ValueError as error:
        raise flags.Error(f"the flagfile {path} is not a text in UTF-8 ({error}). Save it as UTF-8.") from error
    lines = (_argument(line) for line in os.fsdecode(text.encode()).splitlines())  # as the locale names files
    return [line for line in lines if line], (*within, path.resolve())


def _argument(line):
    """Return the argument on a line, which is empty if the line holds none."""
    line = line.strip()
    if line.startswith(("#", "//")):
        return ""
    match = re.fullmatch(r"(-{0,2}\w[\w-]*)\s*=(.*)", line)
    name, value = (f"{match[1]}=", match[2]) if match else ("", line)
    if quoted := re.fullmatch(r"""\s*(['"])(.*?)\1(\s+(#|//\s).*)?""", value):
        return name + quoted[2]
    return name + re.sub(r"\s(#|//\s).*", "", value).strip()
