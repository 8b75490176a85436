"""Make reStructuredText of the docstrings, which are plain text with names in backticks and indented examples."""

import re

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict:
    """Connect `convert`, before Napoleon reads the sections of a docstring (priority 500)."""
    app.connect("autodoc-process-docstring", convert, priority=400)
    return {"parallel_read_safe": True}


def convert(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Mark indented blocks as code, and escape signs that have a meaning only in reStructuredText."""
    done: list[str] = []
    literal = False
    for number, line in enumerate(lines):
        before = [text for text in lines[:number] if text.strip()]
        indented = line.startswith("    ")
        if indented and not literal and number and not lines[number - 1].strip() and before:
            literal = not before[-1].startswith(" ")
            done += ["::", ""] if literal else []
        elif literal and line.strip() and not indented:
            literal = False
        done.append(line if literal else escaped(line))
    lines[:] = done


def escaped(line: str) -> str:
    """Return a line in which `*`, `|` and an underscore at the end of a word mean themselves outside of backticks."""
    bullet = "* " if line.startswith("* ") else ""
    parts = line.removeprefix(bullet).split("`")
    parts[::2] = [re.sub(r"[*|]|_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    return bullet + "`".join(parts)
