"""Make the index of a batch run: what ran, with which parameters, how it ended, and how the runs of a sweep compare."""

import base64
import functools
import html
import io
import os
from collections.abc import Iterable
from pathlib import Path

from cluster.batch import compare, sweep
from cluster.batch.pages import MARK, STYLE, address, readable
from cluster.batch.sweep import Result

from PIL import Image

_WIDTH = 160  # of a run's first figure, in pixels of the page
_MOST = 400  # runs with a figure, so that the index stays small


def index(results: Iterable[Result], folder: Path, note: str) -> str:
    """Make the index of a batch run.

    It has one row for each run, with a link to its page, its first figure, parameters, status and minutes. For a sweep,
    a table and a chart compare the results.

    Args:
      results: the outcomes of the runs, in the order of the table.
      folder: folder of the index, to which the links are relative.
      note: a sentence above the table that says what was run.

    Returns:
      The HTML of the index. It needs no other file and no network.
    """
    results = list(results)
    rows = "\n".join(_row(result, folder, number < _MOST) for number, result in enumerate(results))
    made = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{MARK}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Executed notebooks</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>Executed notebooks</h1>
<p>{html.escape(note)}</p>
<div class="wide" tabindex="0" role="region" aria-label="Runs">
<table class="runs">
<thead><tr><th scope="col">First figure</th><th scope="col">Notebook</th><th scope="col">Parameters</th>
<th scope="col">Status</th><th scope="col">Minutes</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
{_comparison(results)}
</main>
</body>
</html>
"""
    return readable(made)


def _row(result: Result, folder: Path, figure: bool) -> str:
    """Return a row of the table."""
    name = html.escape(result.title)
    if result.page:
        name = f'<a href="{address(result.page, folder)}">{name}</a>'
    status = "done" if result.ok else f'<strong class="failed">failed</strong>: {html.escape(result.message)}'
    parameters = "<br>".join(
        html.escape(f"{name} = {sweep.shown(value)}") for name, value in result.run.parameters.items()
    )
    return (
        f'<tr><td>{_first_figure(result) if figure else ""}</td><th scope="row">{name}</th><td>{parameters}</td>'
        f'<td>{status}</td><td class="number">{result.minutes:.1f}</td></tr>'
    )


def _first_figure(result: Result) -> str:
    """Return the first figure of a run as a small image, or "" if it drew none."""
    for cell in result.notebook.cells if result.notebook else []:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                text = output.get("metadata", {}).get("image/png", {}).get("alt") or f"First figure of {result.title}"
                return f'<img src="{_thumbnail(png)}" alt="{html.escape(text)}">' if _thumbnail(png) else ""
    return ""


@functools.lru_cache(maxsize=1024)
def _thumbnail(png: str) -> str:
    """Return a small copy of a PNG in base64 as a data URI, or "" if it is none."""
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    except (OSError, ValueError):
        return ""
    picture.thumbnail((2 * _WIDTH, 4 * _WIDTH))
    small = io.BytesIO()
    picture.save(small, "WEBP", quality=70)
    return "data:image/webp;base64," + base64.b64encode(small.getvalue()).decode()


def _comparison(results: list[Result]) -> str:
    """Return the table and the chart of a sweep, or "" if no parameter was swept."""
    if not any(result.run.values for result in results):
        return ""
    rows = sweep.rows(results)
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in rows[0])
    body = os.linesep.join(
        "<tr>"
        + "".join(f"<td{_numeric(value)}>{html.escape(sweep.short(value))}</td>" for value in row.values())
        + "</tr>"
        for row in rows
    )
    chart, text = compare.chart(results)
    picture = f'<img class="chart" src="{chart}" alt="{html.escape(text)}">' if chart else ""
    return f"""<h2>Comparison</h2>
<p>These numbers are also in <a href="sweep.csv">sweep.csv</a>.</p>
<div class="wide" tabindex="0" role="region" aria-label="Comparison">
<table class="runs">
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>
{picture}"""


def _numeric(value: object) -> str:
    return ' class="number"' if isinstance(value, int | float) else ""
