"""A number in prose is printed by a cell above it, or chosen in the code that the reader sees."""

import re
from collections.abc import Iterator
from typing import Any

from tests.support.prose.text import EXCEPTIONS, Text

_NUMBER = r"(?:\d{1,3}(?:(?:,|\{,\})\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?"
# What is no statement about a result: labels, versions, years, and the time that a notebook takes.
_LABELS = re.compile(
    r"""(?:arXiv|doi|ISBN)[:\s]*\S+
    | \b(?i:sections?|equations?|eqs?\.|figures?|tables?|exercises?|notebooks?|steps?|issues?|chapters?|algorithms?
         |hints?|parts?|pages?|python|tensorflow|ranks?|gpu)
      \s\(?[\d.]+\)?(?:(?:,\s|\sto\s|\sand\s|\sor\s|-)[\d.]+)*
    | \d+(?:\.\d+){2,} | \b0\d\b | \b(?:19|20)\d\d[a-z]?\b | ^\s*\d+\.\s | \*\*\d+\.\*\* | \*\*Takes\*\*.*$
    """,
    re.X | re.M,
)


def unprinted_numbers(text: Text) -> Iterator[str]:
    """Each number in the prose of a notebook stands in an output above it, as it is or rounded.

    Choices are no results: a number that is written in the code above, or in the next cell, is the reader's to see
    there. Whole numbers up to ten are counts. Exercises ask, so their numbers are given. Alternative texts of figures
    are prose of the author, and count as no output.
    """
    excused = {str(entry["number"]) for entry in EXCEPTIONS["numbers"] if entry["file"] == text.name}
    printed: set[float] = set()
    code: set[float] = set()
    asking = False
    for i, cell in enumerate(text.cells):
        if cell.cell_type == "code":
            code |= _values(cell.source)
            printed |= _values(" ".join(_outputs(cell)))
            continue
        if cell.cell_type != "markdown":
            continue
        following = next((c.source for c in text.cells[i + 1 :] if c.cell_type == "code"), "")
        for heading, part in _parts(cell.source):
            if heading is not None:
                asking = heading.startswith(("Exercise", "References"))
            if asking:
                continue
            for found, value, decimals, percent in _stated(part):
                if found not in excused and not _known(value, decimals, percent, printed, code | _values(following)):
                    yield f"{text.where(cell)}: no cell above prints {found}"


def _parts(markdown: str) -> Iterator[tuple[str | None, str]]:
    """Yield (heading or None, prose) for what stands before the first heading of the second level and after each."""
    first, *others = re.split(r"^(?=## )", markdown, flags=re.M)
    yield None, first
    for part in others:
        heading, _, rest = part[3:].partition("\n")
        yield heading, rest


def _stated(markdown: str) -> Iterator[tuple[str, float, int, bool]]:
    """Yield the numbers that prose states: as written, their value, their decimals, and whether they are per cent."""
    text = re.sub(r"^(```).*?^\1[^\n]*$|<!--.*?-->", "", markdown, flags=re.S | re.M)
    text = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)|\]\([^)]*\)|https?://\S+|</?[a-zA-Z][^>]*>", " ", text, flags=re.S)
    text = _LABELS.sub(" ", re.sub(r"\$\$.+?\$\$|(?<![\\$\w])\$[^$]+\$", _of_formula, text, flags=re.S))
    for match in re.finditer(rf"(?<![\w.,^_-]){_NUMBER}(?![\w-])", text):
        value = _value(match[0])
        percent = bool(re.match(r"\s?(%|\\%|per cent|percent)", text[match.end() :]))
        if percent or value != int(value) or value > 10:
            yield match[0], value, len(match[0].partition(".")[2]), percent


def _of_formula(match: re.Match[str]) -> str:
    """Keep of a formula the numbers with a point and those in thousands. The others are part of the algebra."""
    return " " + "  ".join(re.findall(r"(?<![\d.])\d{1,3}(?:(?:,|\{,\})\d{3})+|\d+\.\d+", match[0])) + " "


def _known(value: float, decimals: int, percent: bool, printed: set[float], code: set[float]) -> bool:
    half = 0.5 * 10.0**-decimals * (1 + 1e-9)
    scales = (1, 0.01) if percent else (1,)
    return any(abs(other - value * scale) <= half * scale for scale in scales for other in printed) or any(
        abs(other - value * scale) <= 1e-9 * value for scale in scales for other in code
    )


def _values(text: str) -> set[float]:
    found = re.findall(rf"(?<![\w.]){_NUMBER}|(?<=[a-zA-Z_]){_NUMBER}", re.sub(r"(?<=\d)_(?=\d{3})", "", text))
    return {_value(number) for number in found}


def _value(number: str) -> float:
    return float(number.replace("{,}", "").replace(",", ""))


def _outputs(cell: Any) -> Iterator[str]:
    for output in cell.outputs:
        yield output.get("text", "")
        data = output.get("data", {})
        if "image/png" not in data:
            yield data.get("text/plain", "")
