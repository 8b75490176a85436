"""Give the figures of the notebooks their alternative texts, compress them, and collect them in a gallery."""

import base64
import hashlib
import html
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx

GALLERY = "docs/gallery"
THUMBNAIL = 640  # pixels, twice the width that is shown


def setup(app: Sphinx) -> dict:
    """Connect the functions below: the collection of images by Sphinx has priority 500."""
    app.connect("source-read", mark_cells, priority=600)
    app.connect("source-read", fill_gallery, priority=700)
    app.connect("doctree-read", finish, priority=400)
    return {"parallel_read_safe": True}


def of(cell: dict[str, Any]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield the PNG files among a cell's outputs, each with its metadata."""
    for output in cell.get("outputs", []):
        if data := output.get("data", {}).get("image/png"):
            yield base64.b64decode("".join(data)), output["metadata"].get("image/png", {})


def mark_cells(app: Sphinx, docname: str, source: list[str]) -> None:
    """Write the name of each code cell, and the alternative texts of its figures, into its metadata."""
    if not docname.startswith("notebooks/"):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["metadata"]["book"] = {"id": cell["id"], "alts": [about.get("alt", "") for _, about in of(cell)]}
    source[0] = json.dumps(notebook)


def finish(app: Sphinx, doctree: nodes.document) -> None:
    """Give each code cell its anchor, and each figure its alternative text and a smaller file without loss."""
    for cell in doctree.findall(nodes.container):
        book = cell.get("cell_metadata", {}).get("book") if cell.get("nb_element") == "cell_code" else None
        if book is None:
            continue
        cell["ids"].append(f"cell-{book['id']}")
        for image, alt in zip(cell.findall(nodes.image), book["alts"], strict=False):
            image["alt"] = alt
            picture = Path(app.srcdir, Path(app.env.docname).parent, image["uri"])
            if not picture.is_file():
                picture = Path(app.srcdir, image["uri"].lstrip("/"))
            smaller = picture.with_suffix(".webp")
            if not smaller.exists():
                Image.open(picture).convert("RGB").save(smaller, lossless=True, method=4)
            image["uri"] = image["uri"].removesuffix(".png") + ".webp"


def fill_gallery(app: Sphinx, docname: str, source: list[str]) -> None:
    """Add all figures to the gallery's page, each with its finding and a link to the cell that made it."""
    if docname != GALLERY:
        return
    folder = Path(app.srcdir, "build", "book-figures", "gallery")
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(Path(app.srcdir, "notebooks").glob("*.ipynb")):
        app.env.note_dependency(str(path))
        notebook = json.loads(path.read_text(encoding="utf-8"))
        shown = [
            _entry(png, about, f"../notebooks/{path.stem}.html#cell-{cell['id']}", folder)
            for cell in notebook["cells"]
            for png, about in of(cell)
        ]
        if shown:
            title = "".join(notebook["cells"][0]["source"]).partition("\n")[0].lstrip("# ")
            source[0] += f'\n## {title}\n\n<div class="gallery">\n' + "\n".join(shown) + "\n</div>\n"


def _entry(png: bytes, about: dict[str, Any], address: str, folder: Path) -> str:
    """Return the HTML of one figure of the gallery, and write its thumbnail."""
    name = f"{hashlib.sha256(png).hexdigest()[:16]}.webp"
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    if not (folder / name).exists():
        picture.save(folder / f".{name}", format="webp", quality=80)
        os.replace(folder / f".{name}", folder / name)
    width, height = (size // 2 for size in picture.size)
    alt = about.get("alt", "")
    finding = about.get("title") or alt.split(". ")[0].removesuffix(".")
    return (
        f'<figure><a href="{address}"><img src="../_static/gallery/{name}" alt="{html.escape(alt)}" '
        f'width="{width}" height="{height}" loading="lazy"></a>'
        f'<figcaption><a href="{address}">{html.escape(finding)}</a></figcaption></figure>'
    )
