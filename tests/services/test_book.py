"""The book, built as `make book` builds it, and read in a browser that has no network.

make setup BOOK=1                       # Sphinx
npm install --prefix build axe-core     # the check of accessibility; or $BNN_AXE names its axe.min.js
"""

import contextlib
import functools
import http.server
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

from helpers import ROOT

import pytest

from tests.support import browser, page_checks

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        importlib.util.find_spec("sphinx_book_theme") is None, reason="no Sphinx here: make setup BOOK=1 installs it"
    ),
]
in_browser = pytest.mark.skipif(browser.CHROMIUM is None, reason="Chromium is missing")
BOOK = ROOT / "build" / "book"
# Lists that Sphinx makes besides the pages, and the address of the folder itself.
OTHERS = {"index.html", "search.html", "genindex.html", "py-modindex.html"}
TELEPHONE = (390, 844)


@pytest.fixture(scope="module")
def book():
    """The folder of the book: that of $BNN_BOOK, or build/book, whose pages are made anew if their sources changed."""
    if os.environ.get("BNN_BOOK"):
        return Path(os.environ["BNN_BOOK"]).resolve()
    recipe = re.search(r"sphinx-build .*", Path(ROOT, "Makefile").read_text(encoding="utf-8"))[0]
    made = subprocess.run(
        [sys.executable, "-m", "sphinx", *shlex.split(recipe)[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1100,
    )
    assert made.returncode == 0, made.stderr[-4000:]
    return BOOK


@pytest.fixture(scope="module")
def tab(book):
    with browser.page() as page:
        page.resize(1280, 900)
        yield page


@contextlib.contextmanager
def served(folder):
    """Serve a folder at an address of this machine."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *arguments: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def names(folder):
    return [path.relative_to(folder).as_posix() for path in page_checks.html_files(folder)]


def chapters(folder):
    """The pages of the notebooks, in order."""
    return [name for name in names(folder) if re.match(r"notebooks/\d", name)]


def test_no_link_between_pages_is_dead(book):
    assert page_checks.dead_links(book) == []


def test_readers_reach_every_page_from_the_first_one(book):
    assert set(names(book)) - OTHERS - page_checks.reachable(book, "README.html") == set()
    assert 'url=README.html"' in (book / "index.html").read_text()


def test_each_notebook_has_its_figures_and_its_solutions(book):
    gallery = (book / "docs" / "gallery.html").read_text()
    for path in sorted(ROOT.glob("notebooks/[0-9]*.ipynb")):
        page = (book / "notebooks" / f"{path.stem}.html").read_text()
        cells = json.loads(path.read_text())["cells"]
        drawn = [cell for cell in cells if any("image/png" in each.get("data", {}) for each in cell.get("outputs", []))]
        for cell in drawn:
            assert f'notebooks/{path.stem}.html#cell-{cell["id"]}"' in gallery
            assert f'id="cell-{cell["id"]}"' in page
        solutions = ROOT / "notebooks" / "solutions" / f"{path.stem}_solutions.ipynb"
        if solutions.exists():
            text = "\n".join("".join(c["source"]) for c in json.loads(solutions.read_text())["cells"])
            for number in re.findall(r"^## (?:Exercise )?(\d+)\.", text, re.M):
                assert f"<summary>Solution of exercise {number}</summary>" in page, (path.stem, number)
        assert page.count("<details") == page.count("</details>")
        assert "To read: about" in page and "To run on two cores" in page


@in_browser
def test_every_page_works_from_its_file(tab, book, record_property):
    tab.resize(1280, 900)
    seen = {name: page_checks.look(tab, book / name) for name in names(book) if name not in OTHERS}
    for name in chapters(book)[1:4]:
        assert seen[name]["formulas"] > 5, name
    for what in ("paint", "bytes"):
        slowest = max(seen, key=lambda name: seen[name][what] or 0)
        record_property(f"largest {what}", f"{slowest}: {seen[slowest][what]:.0f}")


@in_browser
def test_search_finds_flipout_from_a_file_and_from_a_server(tab, book):
    def found():
        return tab.evaluate("[...document.querySelectorAll('#search-results li a')].map(link => link.href)")

    with served(book) as address:
        for start in (book.as_uri(), address):
            tab.goto(f"{start}/search.html?q=flipout")
            tab.wait(lambda: any("notebooks/03_flipout.html" in link for link in found()))
            tab.evaluate("new Promise(done => setTimeout(done, 1000))")  # excerpts come later
            assert not tab.errors


@in_browser
def test_next_and_previous_lead_through_the_course(tab, book):
    tab.goto((book / "README.html").as_uri())
    for name in chapters(book):
        tab.goto(tab.evaluate("document.querySelector('.prev-next-area a.right-next').href"))
        assert tab.evaluate("location.pathname").endswith(name)
    assert tab.evaluate("document.querySelector('.prev-next-area a.left-prev').href").endswith(chapters(book)[-2])
    assert tab.evaluate("document.querySelectorAll('.bd-sidebar-secondary .toc-entry a').length") > 5


@in_browser
def test_the_button_copies_a_code_cell(tab, book):
    tab.goto((book / "notebooks" / "03_flipout.html").as_uri())
    copied = tab.evaluate(
        "new Promise(done => {"
        " document.addEventListener('copy', () => done([document.activeElement.value,"
        "   document.querySelector('.cell_input pre').textContent]));"
        " document.querySelector('.cell_input button.copybtn').click(); })"
    )
    assert copied[0].strip() == copied[1].strip() and "profile" in copied[0]


@in_browser
def test_the_keyboard_reaches_everything_and_shows_where_it_is(tab, book):
    tab.resize(1280, 900)
    tab.goto((book / "notebooks" / "03_flipout.html").as_uri())
    tab.press("Tab", 9)
    assert tab.evaluate("document.activeElement.textContent").strip() == "Skip to main content"
    tab.press("Enter", 13)
    assert tab.evaluate("location.hash") == "#main-content"
    unseen, reached = [], set()
    for _ in range(60):
        tab.press("Tab", 9)
        name, shown, copies = tab.evaluate(
            "(() => { const at = document.activeElement, style = getComputedStyle(at);"
            " return [at.ariaLabel || at.textContent.trim(), style.outlineStyle != 'none' || style.boxShadow != 'none',"
            "   at.matches('.copybtn')]; })()"
        )
        reached.add(name)
        unseen += [] if shown else [name]
        if copies:
            tab.wait(lambda: float(tab.evaluate("getComputedStyle(document.activeElement).opacity")) == 1)
            break
    assert copies and len(reached) > 3
    assert not unseen


@in_browser
def test_figures_stay_legible_in_the_dark(tab, book):
    tab.resize(1280, 900, dark=True)
    tab.goto((book / "notebooks" / "03_flipout.html").as_uri())
    look = "getComputedStyle(document.querySelector('{}')).backgroundColor"
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    assert tab.evaluate(look.format("div.cell_output img")) == "rgb(255, 255, 255)"
    assert tab.evaluate(look.format("body")) != "rgb(255, 255, 255)"


@in_browser
def test_pages_fit_a_telephone(tab, book):
    tab.resize(*TELEPHONE)
    wide = {name: page_checks.look(tab, book / name)["wider"] for name in ["README.html", *chapters(book)]}
    assert {name: pixels for name, pixels in wide.items() if pixels > 0} == {}


@in_browser
@pytest.mark.skipif(not page_checks.AXE.is_file(), reason="no axe-core here: npm install --prefix build axe-core")
def test_axe_finds_no_serious_violation(tab, book):
    pages = [name for name in names(book) if name not in OTHERS and "docs/api/" not in name]
    pages += ["docs/api/helpers/layers/index.html", "docs/api/helpers/elbo/index.html", "search.html"]
    found = {}
    for name in pages:
        tab.resize(1280, 900)
        tab.goto((book / name).as_uri())
        found[name] = page_checks.violations(tab)
    for name in ("README.html", *chapters(book)[2:5], "docs/api/helpers/elbo/index.html"):
        tab.resize(1280, 900, dark=True)
        tab.goto((book / name).as_uri())
        found[f"{name}, dark"] = page_checks.violations(tab)
        tab.resize(*TELEPHONE)
        tab.goto((book / name).as_uri())
        found[f"{name}, telephone"] = page_checks.violations(tab)
    assert {name: each for name, each in found.items() if each} == {}
