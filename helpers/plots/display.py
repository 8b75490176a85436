"""How figures and tables look in a notebook, in its HTML page and in plain text."""

import base64
import html
import io
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers import ROOT, files

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure

GREY = "0.45"  # for what is not a result: priors, ideals, diagonals


def use_style() -> None:
    """Apply the course's style to every figure that is drawn from now on."""
    plt.style.use(Path(__file__).with_name("course.mplstyle"))


def show(fig: Figure, alt: str) -> None:
    """Display a figure as a PNG, and close it.

    The picture has more pixels than it is shown with, so that it is sharp on fine screens. It asks a dark JupyterLab
    for a light background. If `BNN_FIGURES_DIR` names a folder, a vector copy lands there too, as an SVG file
    with the figure's title as its name. A relative name is one below the course's folder.

    Args:
      fig: The figure, with a title that states the finding: that of the figure itself or of one of its panels.
      alt: A sentence that says what the figure shows. Screen readers and plain-text outputs have it in its place.

    Raises:
      ValueError: The figure has no title, or `alt` is empty.
      OSError: The vector copy cannot be written.
    """
    alt, heading = " ".join(alt.split()), title(fig)
    if not alt:
        raise ValueError("a figure needs an alternative text: say in a sentence what it shows")
    if not heading:
        raise ValueError("a figure needs a title: state its finding with fig.suptitle(...) or ax.set_title(...)")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    if folder := os.environ.get("BNN_FIGURES_DIR"):
        _keep_vector_copy(fig, ROOT / Path(folder).expanduser(), heading)
    plt.close(fig)
    picture = base64.b64encode(buffer.getvalue()).decode()
    metadata = {"alt": alt, "title": heading, "width": int(fig.get_figwidth() * 96), "needs_background": "light"}
    display({"image/png": picture, "text/plain": alt}, metadata={"image/png": metadata}, raw=True)


def title(fig: Figure) -> str:
    """Return the title of a figure, or else the first title of its panels and of the axes within them, or ""."""
    texts = [fig.get_suptitle()]
    axes = list(fig.axes)
    while axes:
        ax = axes.pop(0)
        texts += [ax.get_title(where) for where in ("left", "center", "right")]
        axes += ax.child_axes
    return next(filter(None, (" ".join(text.split()) for text in texts)), "")


_copies: Counter[str] = Counter()  # vector copies of this process by name, so that a second one of a name has a number


def _keep_vector_copy(fig: Figure, folder: Path, heading: str) -> None:
    name = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")[:80] or "figure"
    _copies[name] += 1
    name += f"-{_copies[name]}" * (_copies[name] > 1)
    text = io.StringIO()
    with plt.rc_context({"svg.hashsalt": name}):  # the same figure gives the same file
        fig.savefig(text, format="svg", metadata={"Date": None})
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / f"{name}.svg", text.getvalue())


def table(rows: Sequence[Mapping[str, Any]], caption: str = "") -> None:
    """Display an HTML table, with plain text for viewers without HTML.

    Args:
      rows: One mapping a row, all with the same keys. Floats get four significant digits; pass a string for more.
      caption: A text below the table, which is the place for the provenance of the data.
    """
    columns = list(rows[0])
    cells = [[_text(row[c]) for c in columns] for row in rows]
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in cells)
    # The caption is as wide as it needs, because a long one in the width of a narrow table is a column of words.
    wide = "width: max-content; max-width: min(40rem, 85vw)"
    note = f'<div style="{wide}">{html.escape(caption)}</div>' if caption else ""
    note = f'<caption style="caption-side: bottom; text-align: left">{note}</caption>' if note else ""
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (columns, *cells)]
    display(
        {
            "text/html": f"<table>{note}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
            "text/plain": "\n".join(lines + [caption] * bool(caption)),
        },
        raw=True,
    )


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
