"""Test that the page of a notebook shows what Jupyter shows. No kernel runs here."""

import base64

from cluster.batch import mathjax, pages, sources

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

PNG = b"\x89PNG\r\n\x1a\n and more"
DATA = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def shown(folder, *cells, metadata=None, links=None):
    """Return the page of a notebook in `folder`/week 1 whose page is in `folder`/out."""
    source = folder / "week 1" / "a.ipynb"
    source.parent.mkdir(exist_ok=True)
    cells = [new_markdown_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    made = pages.page(
        new_notebook(cells=cells, metadata=metadata or {}), source, folder / "out" / "a.html", links or {}
    )
    return BeautifulSoup(made, "html.parser")


def pictures(folder, *cells):
    return [image.get("src") for image in shown(folder, *cells).select("main img")]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path.resolve()
    for name in ("figures/a.png", "week 1/my plot.png", "week 1/50% #2?.png", "week 1/ü.PNG"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(PNG)
    return folder


@pytest.mark.parametrize(
    "address",
    ["../figures/a.png", "my%20plot.png", "50%25%20%232%3F.png", "./my%20plot.png?v=2#x", "../week%201/my%20plot.png",
     "ü.PNG", "%C3%BC.PNG", DATA],
)  # fmt: skip
def test_pictures_are_in_the_page_wherever_they_lie_and_however_they_are_shown(folder, address):
    tag = f'<img src="{address}" width="10">'
    output = new_output("display_data", {"text/html": f"<p>{tag}</p>"})
    found = pictures(folder, f"![one]({address}) and {tag}\n\n<div>{tag}</div>", new_code_cell("1", outputs=[output]))
    assert found == [DATA] * 4


@pytest.mark.parametrize(
    "address",
    ["lost.png", "", ".", "..", "a.ipynb", "https://example.org/a.png", "//example.org/a.png", "/a.png",
     "x" * 300 + ".png", "%00.png", "http://[x", "loop/a.png"],
)  # fmt: skip
def test_an_address_without_a_picture_stays_and_ends_nothing(folder, address):
    (folder / "week 1").mkdir(exist_ok=True)
    (folder / "week 1" / "loop").symlink_to("loop")
    (folder / "week 1" / "a.ipynb").write_text("{}")
    (found,) = pictures(folder, f'<img src="{address}">')
    assert found == {"a.ipynb": "../week%201/a.ipynb", ".": "../week%201", "..": ".."}.get(address, address)
    assert len(pictures(folder, f"![one]({address})")) == 1


def test_attachments_are_found_by_their_names_and_lost_ones_end_nothing(folder):
    coded = base64.b64encode(PNG).decode()
    attachments = {
        "a.png": {"image/png": coded},
        "my plot.png": {"image/png": coded},
        "odd": {"image/webp": coded},
        "e": {},
    }
    cell = new_markdown_cell(
        "![1](attachment:a.png) ![2](attachment:my%20plot.png)\n- in a list ![3](attachment:lost.png)\n\n"
        '<img src="attachment:a.png"> ![5](attachment:odd) ![6](attachment:e)',
        attachments=attachments,
    )
    webp = DATA.replace("png", "webp", 1)
    found = pictures(folder, cell, "![7](attachment:a.png)")
    assert found == [DATA, DATA, "attachment:lost.png", DATA, webp, "attachment:e", "attachment:a.png"]


def test_details_hold_what_they_hide(folder):
    solution = (
        "<details>\n<summary>Solution</summary>\n\nIt is **42** nats.\n\n![one](my%20plot.png)\n\n</details>\n\nAfter."
    )
    soup = shown(folder, "# Exercise\n\n" + solution, "<details><summary>S</summary>Within</details> After.")
    first, second = soup.select("main details")
    assert " ".join(first.get_text().split()) == "Solution It is 42 nats." and not first.has_attr("open")
    assert first.select_one("img")["src"] == DATA and second.get_text() == "SWithin"


def test_what_one_cell_leaves_open_or_closes_too_often_does_not_reach_the_next(folder):
    soup = shown(folder, "<details>\n<summary>Open", "<b>bold", "</div></div></main>", "# The last")
    cells = soup.select("main > .jp-Cell")
    assert len(cells) == 4 and not soup.select("details .jp-Cell, b .jp-Cell")


def test_folded_cells_are_folded_in_the_page(folder):
    output = new_output("stream", text="printed")
    hidden = new_code_cell("source", metadata={"jupyter": {"source_hidden": True}}, outputs=[output])
    quiet = new_code_cell("seen", metadata={"collapsed": True}, outputs=[output])
    plain = new_code_cell("plain", metadata={"collapsed": False, "jupyter": {}}, outputs=[output])
    prose = new_markdown_cell("An answer.", metadata={"jupyter": {"source_hidden": True}})
    found = [" ".join(tag.get_text().split()) for tag in shown(folder, hidden, quiet, plain, prose).select("details")]
    assert [text.split()[0] for text in found] == ["Input", "Output", "Input"]
    assert "source" in found[0] and "printed" in found[1] and "An answer." in found[2]


def test_links_lead_to_pages_and_files_whose_names_have_signs(folder):
    other = folder / "week 1" / "Übung #2 (50%).ipynb"
    (folder / "week 1" / "a:b?.csv").write_text("1")
    text = '<a href="%C3%9Cbung%20%232%20(50%25).ipynb#x">1</a> [2](a%3Ab%3F.csv) [3](lost.csv) [4](a:b) [5](http://[x)'
    links = {other: folder / "out" / other.with_suffix(".html").name}
    hrefs = [tag["href"] for tag in shown(folder, text, links=links).select("main a:not(.anchor-link)")]
    assert hrefs[:4] == ["%C3%9Cbung%20%232%20%2850%25%29.html#x", "../week%201/a%3Ab%3F.csv", "lost.csv", "a:b"]
    video = shown(folder, '<video src="my%20plot.png" poster="../figures/a.png"></video>').select_one("video")
    assert (video["src"], video["poster"]) == ("../week%201/my%20plot.png", "../figures/a.png")


def test_alternative_texts_of_outputs_are_in_the_page(folder):
    svg = "<svg xmlns='http://www.w3.org/2000/svg'/>"
    outputs = [
        new_output("display_data", {kind: data}, metadata={kind: {"alt": f"A {kind} & more"}})
        for kind, data in (("image/png", base64.b64encode(PNG).decode()), ("image/svg+xml", svg))
    ]
    soup = shown(folder, new_code_cell("1", outputs=outputs), "![words](my%20plot.png)")
    assert [tag["alt"] for tag in soup.select("main img")] == ["A image/png & more", "A image/svg+xml & more", "words"]


def test_scripts_for_widgets_are_there_where_widgets_are(folder):
    kind = "application/vnd.jupyter.widget-view+json"
    view = new_output("display_data", {kind: {"model_id": "5d2"}, "text/plain": "a bar"})
    state = {
        "application/vnd.jupyter.widget-state+json": {"state": {"5d2": {}}, "version_major": 2, "version_minor": 0}
    }
    cell = new_code_cell("1", outputs=[view])
    assert "require.min.js" in str(shown(folder, cell, metadata={"widgets": state}))
    without = shown(folder, cell)
    assert "require.min.js" not in str(without) and "a bar" in without.select_one("main").get_text()


def test_formulas_need_no_network(folder):
    soup = shown(folder, "An example is $x^2$.")
    scripts = [script["src"] for script in soup.select("script[src]")]
    assert scripts == [pages.MATHJAX], "beside the index, which is here the page's own folder"
    assert r'["\\(", "\\)"]' in str(soup) and not soup.select('script[type="text/x-mathjax-config"]')
    assert not shown(folder, "No formula.").select("script[src]"), "so that the page is smaller"
    assert mathjax.SCRIPT.stat().st_size > 2_000_000


def test_a_page_leads_to_the_index_of_all_runs(folder):
    assert shown(folder, "Text.").select_one("nav a")["href"] == "index.html"


def test_a_notebook_as_it_is_read_can_be_shown(folder):
    source = folder / "week 1" / "a.ipynb"
    state = {"application/vnd.jupyter.widget-state+json": {"5d2": {"model_module": "@jupyter-widgets/base"}}}
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A")], metadata={"widgets": state}), source)
    assert pages.MARK in pages.page(sources.read(source), source, folder / "out" / "a.html", {})[:2000]
