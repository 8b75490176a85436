"""docs/references.bib has every work that a notebook, README.md or the code refers to."""

import json
import re

from helpers import ROOT

MONTHS = "January February March April May June July August September October November December".split()
NOTEBOOKS = [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("notebooks/*/*.ipynb")]


def plain(text):
    """A title as words alone, so that neither case nor signs matter."""
    return " ".join(word for word in re.findall(r"[a-z0-9]+", text.lower()) if word != "and")


def referred():
    """Yield the file and the title of each reference: the first words in italics of an item below the heading."""
    texts = {"README.md": (ROOT / "README.md").read_text(encoding="utf-8")}
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts[path.name] = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    for name, text in texts.items():
        listed = re.split(r"^## ", text.partition("\n## References\n")[2], maxsplit=1, flags=re.M)[0]
        for entry in re.split(r"^[-*] ", listed, flags=re.M)[1:]:
            if found := re.search(r"\*([^*]+)\*", " ".join(entry.split())):
                yield name, found[1]


def test_every_reference_is_in_the_bibliography():
    titles = re.findall(r"title = \{\{(.+)\}\},", (ROOT / "docs" / "references.bib").read_text(encoding="utf-8"))
    known = [plain(title) for title in titles]
    assert len(known) == len(set(known)) > 50
    lacking = [
        f"{name}: {title}"
        for name, title in referred()
        if not any(each.startswith(plain(title)) or plain(title).startswith(each) for each in known)
    ]
    assert not lacking, "add these to docs/references.bib: " + "; ".join(lacking)


def test_every_citation_of_the_code_is_in_the_bibliography():
    """A citation is surnames and a year: He et al. (2016), or Kumar, Liang and Ma (2019)."""
    entries = (ROOT / "docs" / "references.bib").read_text(encoding="utf-8").split("\n@")
    surname = r"[A-Z]\w+"
    cited = re.compile(
        rf"({surname}(?:, {surname})*(?:,? and (?:Del )?{surname}| et al\.)?),? \(?((?:19|20)\d\d)\b(?!-\d)"
    )
    found = 0
    for path in (path for folder in ("helpers", "cluster") for path in ROOT.glob(f"{folder}/**/*.py")):
        for people, year in cited.findall(" ".join(path.read_text(encoding="utf-8").replace("#", "").split())):
            if (name := people.split(",")[0].split()[0]) in MONTHS:
                continue
            found += 1
            of_year = [re.search(r"author = \{(.*)\},", entry)[1] for entry in entries if f"year = {{{year}}}" in entry]
            assert any(re.search(rf"\b{name}\b", authors) for authors in of_year), f"{path.name}: {people} {year}"
    assert found > 40


def test_keys_are_unique_and_sorted():
    keys = re.findall(r"^@\w+\{([^,]+),", (ROOT / "docs" / "references.bib").read_text(encoding="utf-8"), re.M)
    assert keys == sorted(set(keys))
