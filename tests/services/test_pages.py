"""The pages and the index of a batch run of the committed notebooks, in a browser that has no network."""

from cluster.batch import outputs, pages, sources, sweep
from helpers import ROOT

import pytest
from nbformat import v4

from tests.support import browser, page_checks

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(browser.CHROMIUM is None, reason="Chromium is missing"),
]
NAMES = ("03_flipout", "10_batch_jobs")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a batch run, as `cluster.batch.execute` writes it."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "notebooks").mkdir()
    results = []
    links = {ROOT / "notebooks" / f"{name}.ipynb": folder / "notebooks" / f"{name}.html" for name in NAMES}
    for number, (source, target) in enumerate(links.items()):
        notebook = sources.read(source)
        if number:
            cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
            trace = [
                "\x1b[0;31mValueError\x1b[0m Traceback (most recent call last)",
                "\x1b[0;32m----> 1\x1b[0m \x1b[38;5;28mint\x1b[39m(\x1b[38;5;124m'x'\x1b[39m)",
            ]
            cell.outputs = [
                v4.new_output("stream", name="stderr", text="a warning\n"),
                v4.new_output("error", ename="ValueError", evalue="an error", traceback=trace),
            ]
        outputs.save(notebook, pages.page(notebook, source, target, links, folder), True, target.with_suffix(".ipynb"))
        values = {"seed": number}
        run = sweep.Run(source, source.stem, {"profile": "quick", **values}, values)
        results.append(
            sweep.Result(run, source.stem, 1.5, "" if number else "cell x: an error", notebook, target, {"nll": 0.1})
        )
    outputs.summarise(results, folder, "2026-11-01 12:00, profile quick, 2 ranks.")
    return folder


@pytest.fixture(scope="module")
def tab():
    with browser.page() as page:
        yield page


def test_every_page_works_from_its_file(tab, runs):
    tab.resize(1280, 900)
    for path in page_checks.html_files(runs):
        found = page_checks.look(tab, path)
        if path.stem == NAMES[0]:
            assert found["formulas"] > 10
    assert "cell x: an error" in (runs / "index.html").read_text()


def test_links_lead_from_the_index_to_each_page_and_back(tab, runs):
    tab.goto((runs / "index.html").as_uri())
    assert {f"notebooks/{name}.html" for name in NAMES} < page_checks.reachable(runs, "index.html")
    tab.goto(tab.evaluate("document.querySelector('table a').href"))
    assert tab.evaluate("document.querySelector('nav a').href") == (runs / "index.html").as_uri()


@pytest.mark.parametrize("dark", [False, True])
def test_pages_fit_a_telephone(tab, runs, dark):
    tab.resize(390, 844, dark=dark)
    wide = {path.name: page_checks.look(tab, path)["wider"] for path in page_checks.html_files(runs)}
    assert {name: pixels for name, pixels in wide.items() if pixels > 0} == {}


@pytest.mark.skipif(not page_checks.AXE.is_file(), reason="no axe-core here: npm install --prefix build axe-core")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_serious_violation(tab, runs, dark, width):
    tab.resize(width, 900, dark=dark)
    found = {}
    for path in page_checks.html_files(runs):
        tab.goto(path.as_uri())
        found[path.name] = page_checks.violations(tab)
    assert {name: each for name, each in found.items() if each} == {}
