"""Turn executed notebooks into HTML pages, and a batch run into an index of them."""

import html
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cluster.batch.sweep import Result
from helpers import ROOT

import nbconvert
from bs4 import BeautifulSoup
from nbformat import NotebookNode

_STYLE = """
:root { color-scheme: light dark; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .4rem .8rem; text-align: left; vertical-align: top; border-bottom: 1px solid #8888; }
td.number { text-align: right; }
"""


def title(notebook: NotebookNode, fallback: str) -> str:
    """Return the notebook's first heading without Markdown's signs, or `fallback` if it has none."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = next((line for line in prose.splitlines() if line.startswith("#")), fallback)
    return heading.lstrip("#").strip().replace("`", "")


def page(notebook: NotebookNode, source: Path, target: Path, pages: dict[Path, Path]) -> str:
    """Convert an executed notebook to HTML that contains its images.

    The browser fetches MathJax to typeset formulas. Without a network it shows them as LaTeX.

    Args:
      notebook: the executed notebook.
      source: path of the notebook that it was made from. Links in the notebook are relative to it.
      target: path that the page will have.
      pages: dict from the path of each notebook to the path of its page. Links between notebooks lead to the pages.

    Returns:
      The HTML of the page.
    """
    quiet = logging.getLogger("cluster.batch.pages")
    quiet.setLevel(logging.ERROR)
    exporter = nbconvert.HTMLExporter(embed_images=True, log=quiet)
    resources = {"metadata": {"name": title(notebook, source.stem), "path": str(source.parent)}}
    soup = BeautifulSoup(exporter.from_notebook_node(notebook, resources=resources)[0], "html.parser")
    # Only interactive outputs need RequireJS. Without a network the browser would wait for it before it shows the page.
    for script in soup.select(f'script[src="{exporter.require_js_url}"]'):
        script.decompose()
    # nbconvert does not copy the alternative texts of outputs.
    texts = dict(_alternatives(notebook))
    for image in soup.select('img[src^="data:"]'):
        image["alt"] = texts.get("".join(str(image["src"]).partition(",")[2].split()), image.get("alt") or "")
    for link in soup.select("a[href]"):
        link["href"] = _moved(str(link["href"]), source, target, pages)
    # nbconvert's own style breaks printed lines within words.
    style = soup.new_tag("style")
    style.string = ".jp-OutputArea-output pre { word-break: normal; overflow-wrap: anywhere; }"
    soup.find("head").append(style)  # type: ignore[union-attr]  # nbconvert's pages have one
    return str(soup)


def _alternatives(notebook: NotebookNode) -> Iterator[tuple[str, str]]:
    """Yield the images in a notebook's outputs, as base64 without white space, each with its alternative text."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for kind, data in output.get("data", {}).items():
                text = output.metadata.get(kind, {}).get("alt")
                if kind.startswith("image/") and text:
                    yield "".join(data.split()), text


def _moved(href: str, source: Path, target: Path, pages: dict[Path, Path]) -> str:
    """Return the link `href` of notebook `source` as it must read in the page `target`."""
    parts = urlsplit(href)
    if parts.scheme or parts.netloc or not parts.path:
        return href
    goal = (source.parent / unquote(parts.path)).resolve()
    if goal not in pages and not (goal.is_relative_to(ROOT) and target.is_relative_to(ROOT)):
        return href
    path = os.path.relpath(pages.get(goal, goal), target.parent)
    return parts._replace(path=Path(path).as_posix()).geturl()


def index(results: Iterable[Result], folder: Path, note: str) -> str:
    """Make the table of a batch run: title, status and minutes of each run, with a link to its page.

    Args:
      results: the outcomes of the runs, in the order of the table.
      folder: folder of the index, to which the links are relative.
      note: a sentence above the table that says what was run.

    Returns:
      The HTML of the index.
    """
    rows = []
    for result in results:
        name = html.escape(result.title)
        if result.page:
            name = f'<a href="{Path(os.path.relpath(result.page, folder)).as_posix()}">{name}</a>'
        status = "done" if result.ok else f"<strong>failed</strong>: {html.escape(result.message)}"
        rows.append(
            f'<tr><th scope="row">{name}</th><td>{status}</td><td class="number">{result.minutes:.1f}</td></tr>'
        )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Executed notebooks</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Executed notebooks</h1>
<p>{html.escape(note)}</p>
<table>
<thead><tr><th scope="col">Notebook</th><th scope="col">Status</th><th scope="col">Minutes</th></tr></thead>
<tbody>
{os.linesep.join(rows)}
</tbody>
</table>
<p>The pages need a network only for formulas, which MathJax typesets. Without a network you see them as LaTeX.</p>
</main>
</body>
</html>
"""
