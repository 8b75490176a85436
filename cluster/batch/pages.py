"""Turn executed notebooks into HTML pages that look like those of the book and need no network."""

import base64
import logging
import mimetypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from cluster.batch import sources
from helpers import ROOT

import nbconvert
from bs4 import BeautifulSoup, Tag
from jinja2 import pass_context
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

MARK = '<meta content="cluster.run_notebooks" name="generator"/>'  # by which a later run knows its own pages
_PREFERRED = ("image/svg+xml", "image/png", "image/jpeg")  # of an attachment in several formats
STYLE = Path(__file__).with_name("pages.css").read_text(encoding="utf-8")
MATHJAX = "mathjax.js"  # name of its copy beside the index
# As Jupyter typesets: dollars are formulas in prose and in HTML, but not in code and in what code prints.
_MATHJAX = """window.MathJax = {
  tex: {inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]], processEscapes: true},
  options: {enableMenu: false, ignoreHtmlClass: "jp-InputArea-editor|jp-RenderedText"},
};"""
# What is wider than the window, as tables on a telephone, can then be moved with the keyboard.
_SCROLL = """addEventListener("load", () => Promise.resolve(window.MathJax?.startup?.promise).then(() => {
  for (const part of document.querySelectorAll(".jp-RenderedHTMLCommon, .jp-OutputArea-output, mjx-container"))
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
}));"""


class _Renderer(IPythonRenderer):
    """nbconvert's renderer of Markdown, which leaves the addresses of pictures as they are."""

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return super(IPythonRenderer, self).image(text, url, title)


class _Exporter(nbconvert.HTMLExporter):
    """nbconvert's exporter, with each Markdown cell as Jupyter shows it.

    With nbconvert's option embed_images, <details> ends before what it hides, because each tag is parsed by itself.
    A lost attachment ends the export, and pictures in other folders or with escaped names are left out.
    """

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """Return the HTML of a Markdown text, with the pictures that are attached to its cell."""
        # Parsed as a whole, the HTML closes what the text leaves open, so that the next cells stay outside.
        soup = BeautifulSoup(MarkdownWithMath(renderer=_Renderer(escape=False)).render(source), "html.parser")
        attachments = context.get("cell", {}).get("attachments") or {}
        for image in soup.select('img[src^="attachment:"]'):
            name = str(image["src"]).removeprefix("attachment:")
            bundle = attachments.get(name) or attachments.get(unquote_to_bytes(name).decode(errors="replace")) or {}
            for kind in [kind for kind in (*_PREFERRED, *bundle) if kind in bundle][:1]:
                image["src"] = f"data:{kind};base64,{bundle[kind]}"
        return str(soup)


def title(notebook: NotebookNode, fallback: str) -> str:
    """Return the notebook's first heading without Markdown's signs, or `fallback` if it has none."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = next((line for line in prose.splitlines() if line.startswith("#")), fallback)
    return heading.lstrip("#").strip().replace("`", "")


def page(notebook: NotebookNode, source: Path, target: Path, pages: dict[Path, Path], home: Path | None = None) -> str:
    """Convert an executed notebook to HTML that contains its images.

    Args:
      notebook: the executed notebook.
      source: path of the notebook that it was made from. Links in the notebook are relative to it.
      target: path that the page will have.
      pages: dict from the path of each notebook to the path of its page. Links between notebooks lead to the pages.
      home: folder of the index, which also holds a copy of MathJax; by default that of the page.

    Returns:
      The HTML of the page.
    """
    quiet = logging.getLogger("cluster.batch.pages")
    quiet.setLevel(logging.ERROR)
    exporter = _Exporter(log=quiet)
    resources = {"metadata": {"name": title(notebook, source.stem), "path": str(source.parent)}}
    soup = BeautifulSoup(exporter.from_notebook_node(notebook, resources=resources)[0], "html.parser")
    # Only interactive outputs need RequireJS. Without a network the browser would wait for it before it shows the page.
    if not _interactive(notebook):
        for script in soup.select(f'script[src="{exporter.require_js_url}"]'):
            script.decompose()
    # nbconvert does not copy the alternative texts of outputs.
    texts = dict(_alternatives(notebook))
    for image in soup.select('main img[src^="data:"]'):
        image["alt"] = texts.get("".join(str(image["src"]).partition(",")[2].split()), image.get("alt") or "")
    for image in soup.select("main img[src]"):
        image["src"] = _embedded(str(image["src"]), source.parent) or image["src"]
    for name in ("href", "src", "poster"):
        for tag in soup.select(f"main [{name}]"):
            tag[name] = _moved(str(tag[name]), source, target, pages)
    for cell in notebook.cells:
        _fold(soup, cell)
    _furnish(soup, target, home or target.parent)
    return readable(str(soup))


def _furnish(soup: BeautifulSoup, target: Path, home: Path) -> None:
    """Give a page the look of the book, a link to the index, and MathJax from this machine if it has formulas."""
    head, body, main = soup.find("head"), soup.find("body"), soup.find("main")
    assert isinstance(head, Tag) and isinstance(body, Tag) and isinstance(main, Tag)  # nbconvert's pages have them
    for script in head.select('script[src*="mathjax" i], script[type="text/x-mathjax-config"]'):
        script.decompose()
    head.insert(0, BeautifulSoup(MARK, "html.parser"))
    style = soup.new_tag("style")
    style.string = STYLE
    head.append(style)
    runs = address(home / "index.html", target.parent)
    bar = f'<nav class="runs-bar" aria-label="Runs"><a href="{runs}">All runs</a></nav>'
    body.insert(0, BeautifulSoup(bar, "html.parser"))
    script = soup.new_tag("script")
    script.string = _SCROLL
    head.append(script)
    if any(sign in main.get_text() for sign in ("$", "\\(", "\\[", "\\begin{")):
        script = soup.new_tag("script")
        script.string = _MATHJAX
        head.append(script)
        head.append(soup.new_tag("script", src=address(home / MATHJAX, target.parent), defer=""))


def _interactive(notebook: NotebookNode) -> bool:
    """Return whether the notebook shows widgets, or outputs that load scripts with RequireJS."""
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    return "widgets" in notebook.metadata or any("require" in str(data.get("text/html", "")) for data in outputs)


def _alternatives(notebook: NotebookNode) -> Iterator[tuple[str, str]]:
    """Yield the images in a notebook's outputs, as base64 without white space, each with its alternative text."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for kind, data in output.get("data", {}).items():
                text = output.metadata.get(kind, {}).get("alt")
                if kind.startswith("image/") and text:
                    coded = base64.b64encode(data.encode()).decode() if kind == "image/svg+xml" else data
                    yield "".join(coded.split()), text


def _embedded(address: str, folder: Path) -> str | None:
    """Return the picture at an address relative to `folder` as a data URI, or None if there is no such picture."""
    path = _local(address, folder)
    kind, coding = mimetypes.guess_type(path.name, strict=False) if path else (None, None)
    if path is None or coding or not (kind or "").startswith("image/"):
        return None
    try:
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    except (OSError, ValueError):  # Jupyter cannot show it either
        return None


def _moved(href: str, source: Path, target: Path, pages: dict[Path, Path]) -> str:
    """Return the link `href` of notebook `source` as it must read in the page `target`."""
    goal = _local(href, source.parent)
    if goal is None:
        return href
    within = goal.is_relative_to(ROOT) and target.is_relative_to(ROOT)
    if goal not in pages and not within and not os.path.exists(goal):
        return href
    return urlsplit(href)._replace(path=address(pages.get(goal, goal), target.parent)).geturl()


def _local(address: str, folder: Path) -> Path | None:
    """Return the path to which an address relative to `folder` leads, or None if it is no such address."""
    try:
        parts = urlsplit(address)
        if parts.scheme or parts.netloc or not parts.path or parts.path.startswith("/"):
            return None
        return sources.located(folder / os.fsdecode(unquote_to_bytes(parts.path)))
    except (ValueError, OSError, RuntimeError):  # not an address, a path with a zero byte, links in a circle
        return None


def address(path: Path, folder: Path) -> str:
    """Return the address of a file relative to `folder`, in which every sign with a meaning is escaped."""
    return quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix()))


def _fold(soup: BeautifulSoup, cell: NotebookNode) -> None:
    """Fold the input and the outputs of a cell if Jupyter has them folded."""
    jupyter = cell.metadata.get("jupyter", {})
    folded = {
        "Input": jupyter.get("source_hidden"),
        "Output": jupyter.get("outputs_hidden") or cell.metadata.get("collapsed"),
    }
    for word, hidden in folded.items():
        part = soup.find(id=f"cell-id={cell.id}") if hidden is True else None
        part = part.select_one(f".jp-Cell-{word.lower()}Wrapper") if isinstance(part, Tag) else None
        if part:
            details, summary = soup.new_tag("details"), soup.new_tag("summary")
            summary.string = word
            part.wrap(details)
            details.insert(0, summary)


def readable(text: str) -> str:
    """Return a text that UTF-8 can express. Names of files may have other bytes."""
    return text.encode("utf-8", "backslashreplace").decode()
