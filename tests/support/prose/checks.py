"""Which checks a file has to pass."""

from collections.abc import Callable, Iterator

from tests.support.prose.numbers import unprinted_numbers
from tests.support.prose.references import figures, references
from tests.support.prose.terms import kl_without_arguments, misspelled_terms
from tests.support.prose.text import Text, long_sentences

Check = Callable[[Text], Iterator[str]]


def of(text: Text) -> list[Check]:
    """Return the checks of a file. Solutions may be kept without outputs, and documents have none."""
    found: list[Check] = [long_sentences, misspelled_terms, kl_without_arguments]
    if any("## References" in cell.source for cell in text.markdown):
        found.append(references)
    if text.path.suffix == ".ipynb":
        found.append(figures)
        if text.path.parent.name != "solutions":
            found.append(unprinted_numbers)
    return found
