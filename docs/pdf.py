"""Print the book, without its code reference, as one PDF: `make book-pdf` calls this with the folder of the book.

The pages are joined in the order of their "next" buttons, and Chromium prints them with the style for paper.
"""

import html
import os
import posixpath
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from bs4 import BeautifulSoup, Tag

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FIRST, LEFT_OUT = "README.html", "docs/api"
PATIENCE = 600_000  # milliseconds for MathJax, which the browser's clock runs through without waiting

# In this size, nearly all lines of code fit on a sheet.
STYLE = """
article { break-before: page; }
html { font-size: 12px; }
.bd-content pre { font-size: 9.5px; }
@page { size: A4; margin: 14mm 16mm 16mm; @bottom-center { content: counter(page); font: 9px sans-serif; } }
"""


def pages(folder: Path) -> dict[str, BeautifulSoup]:
    """Return the pages of the book by their paths below its folder, in reading order."""
    found: dict[str, BeautifulSoup] = {}
    name = FIRST
    while name and name not in found:
        found[name] = BeautifulSoup((folder / name).read_text(encoding="utf-8"), "html.parser")
        onward = found[name].select_one(".prev-next-area a.right-next")
        name = posixpath.normpath(urljoin(name, str(onward["href"]))) if onward else ""
    return {name: page for name, page in found.items() if not name.startswith(LEFT_OUT)}


def anchor(name: str, fragment: str = "") -> str:
    """Return the anchor of a place of a page in the joined page."""
    return f"{name.removesuffix('.html').replace('/', '-')}--{fragment}"


def joined(folder: Path) -> str:
    """Return one HTML page with the text of all pages. It belongs into the folder of the book."""
    found = pages(folder)
    whole = found[FIRST]
    main = whole.new_tag("main", attrs={"class": "bd-content"})
    main.append(contents(found))
    for name, page in found.items():
        article = page.select_one("article.bd-article")
        assert isinstance(article, Tag), f"{name} has no text"
        for tag in article.find_all(id=True):
            tag["id"] = anchor(name, str(tag["id"]))
        article["id"] = anchor(name)
        for fold in article.find_all("details"):
            fold["open"] = ""
        for tag in article.find_all(["a", "img"]):
            word = "href" if tag.name == "a" else "src"
            tag[word] = moved(str(tag.get(word, "")), name, found)
            tag.attrs.pop("loading", None)
        main.append(article)
    assert whole.body and whole.head
    for script in whole.find_all("script"):
        script.decompose()
    # MathJax with its settings, which only pages with formulas have
    for page in found.values():
        scripts = [tag for tag in page.find_all("script") if "MathJax" in tag.text or "tex-svg" in str(tag.get("src"))]
        if scripts:
            for script in scripts:
                if script.get("src"):
                    script["src"] = f"_static/{posixpath.basename(str(script['src']))}"
            break
    else:
        scripts = []
    whole.body.clear()
    whole.body.append(main)
    style = whole.new_tag("style")
    style.string = STYLE
    whole.head.extend([style, *scripts])
    return str(whole)


def contents(found: dict[str, BeautifulSoup]) -> BeautifulSoup:
    """Return the list of the pages with links to them. Viewers show an outline with page numbers beside the text."""
    lines = []
    for name, page in found.items():
        heading = page.select_one("article.bd-article h1")
        assert heading, f"{name} has no title"
        title = heading.get_text().removesuffix("#")
        lines.append(f'<li><a href="#{anchor(name)}">{html.escape(title)}</a></li>')
    return BeautifulSoup(f"<nav><h1>Contents</h1><ul>{''.join(lines)}</ul></nav>", "html.parser")


def moved(address: str, name: str, found: dict[str, BeautifulSoup]) -> str:
    """Return the address of a link or figure of page `name` as it must read in the joined page."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc or not address:
        return address
    goal = posixpath.normpath(urljoin(name, parts.path)) if parts.path else name
    return f"#{anchor(goal, parts.fragment)}" if goal in found else goal


def main(folder: Path) -> None:
    """Write `book.pdf` into the folder of the book."""
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        sys.exit(f"No Chromium was found, which prints the book. Install one of {', '.join(CHROMIUM)}.")
    source, target = folder / "book-print.html", folder / "book.pdf"
    source.write_text(joined(folder), encoding="utf-8")
    command = [browser, "--headless=new", "--disable-gpu", f"--virtual-time-budget={PATIENCE}"]
    command += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to have one for root
    command += [
        "--no-pdf-header-footer",
        "--generate-pdf-document-outline",
        f"--print-to-pdf={target.resolve()}",
        source.resolve().as_uri(),
    ]
    try:
        subprocess.run(command, check=True, timeout=900, stderr=subprocess.DEVNULL)
    finally:
        source.unlink()
    print(f"The PDF is {target}, {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
