"""Read the prose of notebooks and documents, and cut it into blocks and sentences."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import ROOT

import nbformat
import yaml

HERE = Path(__file__).parent
EXCEPTIONS = yaml.safe_load((HERE / "exceptions.yaml").read_text())
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", ".github/**/*.md", "cluster/**/*.md", "data/*.md", "docs/**/*.md")
    for path in ROOT.glob(pattern)
)

LONGEST = 40  # words of a sentence


@dataclass(frozen=True)
class Text:
    """A notebook or document: its cells as they are read by nbformat. A document is one Markdown cell."""

    path: Path
    cells: list[Any]

    @property
    def name(self) -> str:
        """The path from the course's folder, or the whole path of a file elsewhere."""
        return str(self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path)

    @property
    def markdown(self) -> list[Any]:
        """The cells with prose."""
        return [cell for cell in self.cells if cell.cell_type == "markdown"]

    def where(self, cell: Any) -> str:
        """A name of the file and, in a notebook, of the cell."""
        return f"{self.name}, cell {cell.id}" if self.path.suffix == ".ipynb" else self.name


def read(path: Path) -> Text:
    """Read a notebook or a Markdown document."""
    if path.suffix == ".ipynb":
        return Text(path, nbformat.read(path, 4).cells)
    return Text(path, [nbformat.v4.new_markdown_cell(path.read_text(encoding="utf-8"))])


# Addresses, identifiers and names of files.
_NAMES = (
    r"<?https?://[^\s>)]+>?|\b(?:doi|arXiv):\S+|[\w./*-]+\.(?:md|py|sh|ipynb|cfg|csv|npz|png|ya?ml|html|lock|sif)\b"
)


def plain(markdown: str) -> str:
    """Return Markdown without what is no prose. Each formula and each piece of code becomes the word `x`."""
    text = re.sub(r"^(```|~~~).*?^\1[^\n]*$", "", markdown, flags=re.S | re.M)
    text = re.sub(r"<!--.*?-->|\A---\n.*?^---$", "", text, flags=re.S | re.M)
    text = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "`x`", text, flags=re.S)
    text = re.sub(r"\$\$.+?\$\$", "`x`", text, flags=re.S)
    text = re.sub(r"(?<![\\$\w])\$(?!\s)[^$]+?(?<![\s\\])\$(?!\d)", "`x`", text)
    text = re.sub(r"<code>.*?</code>", "`x`", text, flags=re.S)
    text = re.sub(r"</?(?:details|summary|p|div|br|img)\b[^>]*>", "\n\n", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(_NAMES, "`x`", text)
    return re.sub(r"</?[a-zA-Z][^>]*>", "", text)


def without_references(markdown: str) -> str:
    """Return Markdown without its section of references, and without other lines that quote a title."""
    prose = re.split(r"^## References", markdown, flags=re.M)[0]
    return re.sub(r"^.*(?:arXiv|doi):\d.*$", "", prose, flags=re.M)


def references_of(cell: Any) -> str:
    """Return the references that a cell lists."""
    return "".join(re.findall(r"^## References.*", cell.source, flags=re.M | re.S))


def blocks(markdown: str) -> Iterator[str]:
    """Yield each paragraph, list item and table cell as one line. Headings and code are left out."""
    lines: list[str] = []

    def joined() -> Iterator[str]:
        if lines:
            yield " ".join(lines)
            lines.clear()

    for line in [*plain(markdown).splitlines(), ""]:
        line = re.sub(r"^[\s>]+", "", line)
        if line.startswith("|"):
            yield from joined()
            yield from filter(re.compile(r"\w").search, (part.strip() for part in line.strip("|").split("|")))
            continue
        if not line or re.match(r"#+ |[-*+] |\d+\. ", line):
            yield from joined()
        if line and not line.startswith("#"):
            lines.append(re.sub(r"^([-*+]|\d+\.) ", "", line).strip())


# A point after one of these ends no sentence.
_SHORT = re.compile(r"\b(?:e\.g|i\.e|et al|vs|cf|etc|sd|Eq|Eqs|Fig|Figs|Sec|no|pp?)\.$")


def sentences(markdown: str) -> Iterator[str]:
    """Yield the sentences of Markdown, without its headings, code and references."""
    for block in blocks(without_references(markdown)):
        sentence = ""
        for part in re.sub(r"([.?!:][*_\")]*)\s+(?=[\"*_(`\[]*[A-Z0-9`])", r"\1\n", block).split("\n"):
            sentence = f"{sentence} {part}".strip()
            if not _SHORT.search(sentence) and not sentence.endswith(":"):
                yield sentence
                sentence = ""
        if sentence:
            yield sentence


def words(sentence: str) -> int:
    """Count the words of a sentence. A formula or a piece of code is one word."""
    return len(re.findall(r"\w[\w'’.,/-]*", sentence))


def long_sentences(text: Text) -> Iterator[str]:
    """A sentence has at most 40 words."""
    for cell in text.markdown:
        for sentence in sentences(cell.source):
            if (count := words(sentence)) > LONGEST:
                yield f'{text.where(cell)}: a sentence has {count} words: "{sentence[:80]} ..."'


def lengths(text: Text) -> list[int]:
    """Return the number of words of each sentence. What does not end like one, such as a table cell, is none."""
    found = (sentence for cell in text.markdown for sentence in sentences(cell.source))
    return [words(sentence) for sentence in found if re.search(r"[.?!:][*_\")`]*$", sentence)]
