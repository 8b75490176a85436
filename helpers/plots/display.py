"""How figures and tables look in a notebook, in its HTML page and in plain text."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    for a light background.

    Args:
      fig: The figure.
      alt: A sentence that says what the figure shows. Screen readers and plain-text outputs have it in its place.

    Raises:
      ValueError: `alt` is empty.
    """
    alt = " ".join(alt.split())
    if not alt:
        raise ValueError("a figure needs an alternative text: say in a sentence what it shows")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    plt.close(fig)
    picture = base64.b64encode(buffer.getvalue()).decode()
    metadata = {"alt": alt, "width": int(fig.get_figwidth() * 96), "needs_background": "light"}
    display({"image/png": picture, "text/plain": alt}, metadata={"image/png": metadata}, raw=True)


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
