"""docs/references.bib has every work that a notebook or README.md refers to."""

import json
import re

from helpers import ROOT

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


def test_keys_are_unique_and_sorted():
    keys = re.findall(r"^@\w+\{([^,]+),", (ROOT / "docs" / "references.bib").read_text(encoding="utf-8"), re.M)
    assert keys == sorted(set(keys))
