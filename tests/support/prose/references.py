"""Each reference is cited, each citation has a reference, and each figure has an alternative text and a title."""

import re
from collections.abc import Iterator

from tests.support.prose.text import Text, plain

_YEAR = r"(?:19|20)\d\d"
_NAME = r"(?:(?:Der|De|Del|Van|Von|van|von|de|der)\s)*[A-Z][\w’'-]*[a-z][\w’'-]*"
_CITATION = re.compile(
    rf"({_NAME})(?:(?:,\s(?:and\s)?|\sand\s|\s&\s){_NAME})*(?:\set\sal\.|\sand\sothers)?,?\s\(?({_YEAR})[a-z]?\b"
)
_NO_NAMES = set(
    "January February March April May June July August September October November December In Since Until From".split()
)


def references(text: Text) -> Iterator[str]:
    """Each entry under the heading References is cited by first author and year, and each citation has an entry.

    An entry begins with the authors' initials and surnames. One without a year, such as a link, need not be cited.
    """
    prose, listed = _halves(text)
    entries = set(_entries(listed))
    code = " ".join(cell.source for cell in text.cells if cell.cell_type == "code")
    for name, year in sorted(entries):
        if not re.search(rf"\b{re.escape(name)}\b[^.]{{0,80}}(?:al\.)?[^.]{{0,10}}\b{year}", f"{prose} {code}"):
            yield f"{text.name}: {name} ({year}) is listed among the references and not cited"
    for name, year in sorted(set(_CITATION.findall(prose))):
        name = " ".join(name.split())
        if name not in _NO_NAMES and (name, year) not in entries:
            yield f"{text.name}: {name} ({year}) is cited and not listed among the references"


def _halves(text: Text) -> tuple[str, str]:
    """Return the prose without the references, and the references."""
    whole = "\n\n".join(cell.source for cell in text.markdown)
    parts = re.split(r"^## References\b.*$", whole, maxsplit=1, flags=re.M)
    if len(parts) == 1:
        return plain(whole), ""
    listed, *after = re.split(r"^(?=## )", parts[1], maxsplit=1, flags=re.M)
    return plain(parts[0] + "".join(after)), listed


def _entries(listed: str) -> Iterator[tuple[str, str]]:
    for entry in re.split(r"^\s*[-*] ", listed, flags=re.M)[1:]:
        entry = re.sub(r"(?:arXiv|doi|ISBN)[:\s]*\S+|https?://\S+", "", " ".join(entry.split()))
        author = re.match(rf"(?:[A-ZÀ-Þ][a-z]?\.[- ]?)+({_NAME})", entry)
        year = re.search(rf"\b{_YEAR}\b", entry)
        if author and year:
            yield author[1], year[0]


def figures(text: Text) -> Iterator[str]:
    """Each picture in an output has an alternative text and a title, which `plots.show` writes into its metadata."""
    for cell in text.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                described = output.metadata.get("image/png", {})
                for key, kind in (("alt", "alternative text"), ("title", "title")):
                    if not str(described.get(key, "")).strip():
                        yield f"{text.where(cell)}: a figure has no {kind}; show it with plots.show"
