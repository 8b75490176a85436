"""HTML pages of executed notebooks, and the index over them."""

import contextlib
import html
import logging
import os
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from helpers import ROOT

import nbconvert
from bs4 import BeautifulSoup

_STYLE = """
:root { color-scheme: light dark; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .4rem .8rem; text-align: left; vertical-align: top; border-bottom: 1px solid #8888; }
td.number { text-align: right; }
"""


def write(path, text):
    """Write `text` to `path` as a whole or not at all: a run that is killed leaves the older file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        # mkstemp's file is the owner's alone; these are to be read.
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def title(notebook, fallback):
    """The notebook's first heading, without Markdown's signs, or `fallback` if it has none."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = next((line for line in prose.splitlines() if line.startswith("#")), fallback)
    return heading.lstrip("#").strip().replace("`", "")


def page(notebook, source, target, pages):
    """The HTML of an executed notebook, its images within.

    Formulas are typeset by MathJax, which the browser fetches; without a network they are read as LaTeX.

    Args:
      notebook: the executed notebook.
      source: path of the notebook it was made from, to which its links are relative.
      target: path that the page will have.
      pages: dict from notebooks' source paths to their pages' paths, for links between them.
    """
    quiet = logging.getLogger("cluster.pages")
    quiet.setLevel(logging.ERROR)
    exporter = nbconvert.HTMLExporter(embed_images=True, log=quiet)
    resources = {"metadata": {"name": title(notebook, source.stem), "path": str(source.parent)}}
    soup = BeautifulSoup(exporter.from_notebook_node(notebook, resources=resources)[0], "html.parser")
    # Only interactive outputs need it; without a network it would hold up the page.
    for script in soup.select(f'script[src="{exporter.require_js_url}"]'):
        script.decompose()
    # nbconvert leaves out the alternative texts of outputs.
    texts = dict(_alternatives(notebook))
    for image in soup.select('img[src^="data:"]'):
        image["alt"] = texts.get("".join(image["src"].partition(",")[2].split()), image.get("alt", ""))
    for link in soup.select("a[href]"):
        link["href"] = _moved(link["href"], source, target, pages)
    # nbconvert breaks printed lines within words.
    style = soup.new_tag("style")
    style.string = ".jp-OutputArea-output pre { word-break: normal; overflow-wrap: anywhere; }"
    soup.head.append(style)
    return str(soup)


def _alternatives(notebook):
    """The pictures in a notebook's outputs, as base64 without white space, each with its alternative text."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for kind, data in output.get("data", {}).items():
                text = output.metadata.get(kind, {}).get("alt")
                if kind.startswith("image/") and text:
                    yield "".join(data.split()), text


def _moved(href, source, target, pages):
    """The link `href` of notebook `source` as it must read in `target`."""
    parts = urlsplit(href)
    if parts.scheme or parts.netloc or not parts.path:
        return href
    goal = (source.parent / unquote(parts.path)).resolve()
    if goal not in pages and not (goal.is_relative_to(ROOT) and target.is_relative_to(ROOT)):
        return href
    path = os.path.relpath(pages.get(goal, goal), target.parent)
    return parts._replace(path=Path(path).as_posix()).geturl()


def index(results, folder, note):
    """The HTML of a table over `results`: title, status, minutes, with links relative to `folder`.

    Args:
      results: objects with title, page (a path or None), ok, minutes and message.
      note: a sentence above the table that says what was run.
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
<p>The pages need no network but for formulas, which MathJax typesets; without it they are read as LaTeX.</p>
</main>
</body>
</html>
"""
