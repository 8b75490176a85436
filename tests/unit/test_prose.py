"""The prose of notebooks and documents passes the checks of tests/support/prose, and each check can fail."""

import re

from helpers import ROOT

import nbformat
import pytest
from nbformat import v4

from tests.support.prose import checks, numbers, references, terms
from tests.support.prose.grammar import grammar
from tests.support.prose.text import (
    CHAPTERS,
    DOCUMENTS,
    EXCEPTIONS,
    SOLUTIONS,
    Text,
    long_sentences,
    plain,
    read,
    words,
)
from tests.support.prose.text import sentences as sentences_of

UNCHECKED = EXCEPTIONS["unchecked"]
ALL = DOCUMENTS + CHAPTERS + SOLUTIONS
CHECKED = [path for path in ALL if str(path.relative_to(ROOT)) not in UNCHECKED]


def problems(path):
    text = read(path)
    return [problem for check in checks.of(text) for problem in check(text)]


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_passes_its_checks(path):
    assert problems(path) == []


def test_spelling_and_grammar():
    """All files at once: Harper reads its dictionary only once."""
    assert list(grammar([read(path) for path in CHECKED])) == []


@pytest.mark.parametrize("name", UNCHECKED)
def test_an_unchecked_file_is_there_and_needs_to_be_unchecked(name):
    assert UNCHECKED[name] and (ROOT / name).is_file()
    assert problems(ROOT / name), f"{name} passes: remove it from exceptions.yaml"


def test_exceptions_for_numbers_are_used():
    for entry in EXCEPTIONS["numbers"]:
        assert entry["reason"]
        if entry["file"] in UNCHECKED:
            continue
        prose = "\n".join(cell.source for cell in read(ROOT / entry["file"]).markdown)
        assert str(entry["number"]) in prose, f"{entry} is not needed"


# ---- Each check finds what it is for, and nothing else


def notebook(*cells):
    """Texts are Markdown, and pairs of code and printed output are code."""
    made = []
    for cell in cells:
        if isinstance(cell, str):
            made.append(v4.new_markdown_cell(cell))
        else:
            outputs = [v4.new_output("stream", text=cell[1])] if isinstance(cell[1], str) else [cell[1]]
            made.append(v4.new_code_cell(cell[0], outputs=outputs))
    return Text(ROOT / "notebooks" / "99_test.ipynb", made)


def test_sentences_end_where_they_end():
    text = """# A heading is none
One sentence (Blundell et al. 2015) with $a. B$ and `code. More` in it.
Another, e.g. this one: it goes on. "Quoted." A third!

- an item. With two sentences
1. Numbered

| a table | has cells |
|---|---|
```
Code. Is none.
```
## References
- A. Author. *A title.* 2020."""
    assert list(sentences_of(text)) == [
        "One sentence (Blundell et al. 2015) with `x` and `x` in it.",
        "Another, e.g. this one: it goes on.",
        '"Quoted."',
        "A third!",
        "an item.",
        "With two sentences",
        "Numbered",
        "a table",
        "has cells",
    ]
    assert words("The noise band's width, 0.3, is `x` (well-known).") == 8


def test_a_sentence_of_41_words_is_too_long():
    assert list(long_sentences(notebook("Word " + "and word " * 19 + "end."))) == []
    (problem,) = long_sentences(notebook("Word " + "and word " * 20 + "."))
    assert "41 words" in problem


def test_a_number_is_printed_above_as_it_is_or_rounded():
    printed = ("draw()", "accuracy 0.9731, 61,706 weights, NLL 8.25e-02, 95%")
    fine = "Accuracy is 0.973, or 97 %, with 61,706 weights. NLL is 0.0825. A $95\\%$ band."
    assert list(numbers.unprinted_numbers(notebook(printed, fine))) == []
    for wrong in ("0.974", "98 %", "$0.974$", "61,707", "0.9732", "61"):
        (problem,) = numbers.unprinted_numbers(notebook(printed, f"It is {wrong}."))
        assert re.search(r"prints [\d.,]+$", problem)
    assert list(numbers.unprinted_numbers(notebook("It is 0.973.", printed))), "a cell below is no cell above"


def test_numbers_of_choices_labels_and_questions_need_no_output():
    text = """Of 4 seeds (Blundell 2015), see section 4.12, exercises 11 and 12, notebook 08 and equation (17).
TensorFlow 2.21 and `0.123` and [a link](https://example.org/0.77) and $x^{12} + 34$. arXiv:1505.05424.
**Takes** 15 minutes.
## Exercises
What becomes of 0.1234?"""
    assert list(numbers.unprinted_numbers(notebook(text))) == []
    assert list(numbers.unprinted_numbers(notebook("We draw 300 networks.", ("draws = 300", "")))) == []
    assert list(numbers.unprinted_numbers(notebook("We draw 300 networks.", ("draws = 200", ""))))


def test_an_alternative_text_prints_no_number():
    picture = v4.new_output("display_data", data={"image/png": "AA==", "text/plain": "It rises to 0.75."})
    assert list(numbers.unprinted_numbers(notebook(("show()", picture), "It rises to 0.75.")))


def test_references_and_citations_belong_together():
    listed = """
## References

- C. Blundell, J. Cornebise. *Weight Uncertainty in 2019 Networks.* ICML 2015. arXiv:1505.05424.
- A. Der Kiureghian, O. Ditlevsen, *Aleatory or epistemic?*, Structural Safety 31 (2009) 105-112.
- A library: [a link](https://example.org).
"""
    listed = listed.replace("in 2019 Networks", "in Networks")
    cited = "As Blundell and Cornebise (2015) say, and others (Der Kiureghian and Ditlevsen 2009). In May 2024 too."
    assert list(references.references(notebook(cited, listed))) == []
    (problem,) = references.references(notebook(cited.replace("2009", "").replace("Der", "der"), listed))
    assert "Der Kiureghian (2009) is listed" in problem
    (problem,) = references.references(notebook(cited + " See Graves (2011).", listed))
    assert "Graves (2011) is cited and not listed" in problem


def test_a_figure_has_an_alternative_text_and_a_title():
    def shown(**metadata):
        picture = v4.new_output("display_data", data={"image/png": "AA=="}, metadata={"image/png": metadata})
        return list(references.figures(notebook(("show()", picture))))

    assert shown(alt="A line", title="It rises") == []
    assert "no title" in shown(alt="A line")[0]
    assert "no alternative text" in shown(title="It rises", alt=" ")[0]


def test_terms_are_spelled_as_in_the_glossary():
    fine = "A Bayesian neural network, Monte Carlo, the ELBO and BNNs. `elbo.NegativeElbo` and `dataset`"
    assert list(terms.misspelled_terms(notebook(fine))) == []
    for wrong in ("a Bayesian\nnetwork", "Bayesian networks", "Monte-Carlo draws", "Datasets", "the Elbo", "Bnn"):
        assert len(list(terms.misspelled_terms(notebook(wrong)))) == 1, wrong


def test_the_glossary_defines_each_term_once_and_does_not_contradict_itself():
    found = terms.entries()
    headings = re.findall(r"^### (.*)$", terms.GLOSSARY.read_text(), re.M)
    assert len(headings) == len(found) > 60
    for term, (_, definition, avoid) in found.items():
        assert len(definition.split()) > 5, term
        assert not set(avoid) & set(found), term


def test_kl_has_two_arguments():
    fine = r"KL(q ‖ p), $\mathrm{KL}(q\,\|\,p)$, $\operatorname{KL}\left[q \,\Vert\, p\right]$, KL weight, `KL`, (KL)"
    assert list(terms.kl_without_arguments(notebook(fine))) == []
    for wrong in ("the KL falls", r"$\mathrm{KL}/N$", "KL(q)", r"$-\text{KL}$"):
        assert len(list(terms.kl_without_arguments(notebook(wrong)))) == 1, wrong


def test_harper_finds_what_is_misspelled_and_what_is_wrong():
    assert (
        list(grammar([notebook("Horovod averages the gradients of the BNN, and `blorptum` is code: $blorptum$.")]))
        == []
    )
    made = Text(ROOT / "notebooks" / "99_test.ipynb", [v4.new_markdown_cell(id=i) for i in ("right", "wrong")])
    made.cells[0].source = "It is right."
    made.cells[1].source = "We blorptum the noise.\n\nThis is an test."
    found = list(grammar([made]))
    assert len(found) == 2 and all("cell wrong: " in problem for problem in found), found
    assert "'blorptum'" in found[0] + found[1] and "'an'" in found[0] + found[1]


def test_plain_text_keeps_prose_and_links_alone():
    text = "See [the notebook](a.ipynb) and <b>this</b>, `code`, $x$ or <https://example.org/a>.<!-- no -->"
    assert plain(text) == "See the notebook and this, `x`, `x` or `x`."


def anchor(heading):
    """Return the name that a code host gives to a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_document_lead_to_files_and_headings(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target, _, place in (link.partition("#") for link in re.findall(r"\]\(([^):]+)\)", text)):
        there = path.parent / target if target else path
        assert there.exists(), target
        if place:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.M)
            assert place in map(anchor, headings), f"{target}#{place}"


def test_documents_are_found():
    names = {str(path.relative_to(ROOT)) for path in DOCUMENTS}
    assert {"README.md", "cluster/HUB.md", "data/README.md", "docs/glossary.md"} <= names
    assert not [name for name in names if ".venv" in name]
    assert all(nbformat.read(path, 4).cells for path in CHAPTERS)
