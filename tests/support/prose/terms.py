"""The terms of docs/glossary.md are used as they are spelled there."""

import re
from collections.abc import Iterator
from functools import cache

from helpers import ROOT

from tests.support.prose.text import Text, plain, without_references

GLOSSARY = ROOT / "docs" / "glossary.md"


@cache
def entries() -> dict[str, tuple[str, str, list[str]]]:
    """Read the glossary: {term: (abbreviation or "", definition, what not to write)}."""
    found = {}
    for part in re.split(r"^### ", GLOSSARY.read_text(encoding="utf-8"), flags=re.M)[1:]:
        heading, _, body = part.partition("\n")
        term, short = re.fullmatch(r"(.*?)(?: \(([^)]+)\))?", heading.strip()).groups("")
        definition, _, avoid = re.split(r"^## ", body, flags=re.M)[0].partition("*Not:*")
        found[term] = short, definition.strip(), re.findall("`([^`]+)`", avoid)
    return found


def misspelled_terms(text: Text) -> Iterator[str]:
    """No term is written as the glossary says not to, and abbreviations keep their capitals."""
    for cell in text.markdown:
        prose = plain(without_references(cell.source))
        for term, (short, _, avoid) in entries().items():
            for wrong in avoid:
                any_case = wrong == wrong.lower() != term.lower()
                pattern = r"\s+".join(map(re.escape, wrong.split()))
                for found in re.finditer(rf"(?<![\w-]){pattern}(?:e?s)?(?![\w-])", prose, re.I if any_case else 0):
                    yield f'{text.where(cell)}: write "{term}", not "{found[0]}"'
            if short.isupper():
                for found in re.finditer(rf"(?<![\w.-]){short}(?![\w.-])", prose, re.I):
                    if found[0] != short and found[0] != short + "s":
                        yield f'{text.where(cell)}: write "{short}", not "{found[0]}"'


# Nouns before which KL stands for "Kullback-Leibler": the weight of a divergence that was written with its arguments.
_COMPOUNDS = r"weights?|terms?|divergences?|annealing|schedules?|estimates?|estimators?|gradients?|columns?|warm-up"


def kl_without_arguments(text: Text) -> Iterator[str]:
    """KL is written with its two arguments, because KL(q || p) and KL(p || q) are not the same."""
    for cell in text.markdown:
        source = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)|^```.*?^```", " ", cell.source, flags=re.S | re.M)
        for found in re.finditer(r"(?<![\w-])(?:\\[a-zA-Z]+\{)?KL(?![\w])\}?(.{0,40})", source, re.S):
            after = re.sub(r"\\[,!;: ]|\\(?:left|big|Big|bigl|Bigl|bigg)(?![a-zA-Z])", "", found[1]).lstrip()
            given = re.match(r"[(\[{].{1,30}?(\\\||\\Vert|\\parallel|\|\||‖|\\mid\\mid)", after, re.S)
            defined = source[: found.start()].endswith("(") and after.startswith(
                ")"
            )  # "Kullback-Leibler (KL) divergence"
            if not given and not defined and not re.match(rf"-?\s*(?:{_COMPOUNDS})\b", after):
                yield f'{text.where(cell)}: KL without its two arguments: "{" ".join(found[0].split())[:50]}"'
