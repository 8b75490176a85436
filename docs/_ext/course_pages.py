"""Make pages of the book from the course's files: the contents, links to folders, and the line with the times."""

import json
import re
from pathlib import Path
from urllib.parse import quote

from sphinx.application import Sphinx

WORDS_A_MINUTE = 200
NOTEBOOK = re.compile(r"notebooks/\d\d\w*")


def setup(app: Sphinx) -> dict:
    """Connect the functions below. A notebook's solutions are folded in later, and do not count as reading."""
    app.connect("source-read", read, priority=400)
    app.connect("builder-inited", lambda app: _allow_webp(app))
    return {"parallel_read_safe": True}


def _allow_webp(app: Sphinx) -> None:
    """Every browser shows WebP, but Sphinx does not know it."""
    if "image/webp" not in app.builder.supported_image_types:
        app.builder.supported_image_types = [*app.builder.supported_image_types, "image/webp"]


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Change the source of a page as it is read. The files themselves stay as they are."""
    if NOTEBOOK.fullmatch(docname):
        for extension in Path(__file__).parent.glob("*.py"):
            app.env.note_dependency(str(extension))
        source[0] = with_times(app, docname, json.loads(source[0]))
    elif docname == "docs/bibliography":  # sphinxcontrib-bibtex fails if the file has changed and the page is not read
        app.env.note_dependency(str(Path(app.confdir, "references.bib")))
    elif Path(app.env.doc2path(docname)).suffix == ".md":
        source[0] = without_folder_links(source[0], Path(app.env.doc2path(docname)).parent)
    if docname == app.config.root_doc:
        contents = Path(app.confdir, "contents.txt")
        app.env.note_dependency(str(contents))
        source[0] += "\n" + contents.read_text(encoding="utf-8")


def without_folder_links(text: str, folder: Path) -> str:
    """Return a Markdown text in which links to folders are plain text. A code host lists a folder, a book cannot."""

    def plain(link: re.Match) -> str:
        return link[1] if (folder / link[2]).is_dir() else link[0]

    return re.sub(r"\[([^\]]+)\]\(([^)#:]+)\)", plain, text)


def with_times(app: Sphinx, docname: str, notebook: dict) -> str:
    """Return a notebook as text, with a line below its title: the time to read and to run, and how to open it."""
    prose = " ".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    minutes = max(5, 5 * round(len(prose.split()) / WORDS_A_MINUTE / 5))
    line = f"To read: about {minutes} minutes"
    readme = Path(app.srcdir, "README.md")
    app.env.note_dependency(str(readme))
    row = re.search(rf"\({docname}\.ipynb\).*\| *([^|]+?) / ([^|]+?) *\|$", readme.read_text(encoding="utf-8"), re.M)
    if row:
        line += f" · To run on two cores: {row[1]} min (quick), {row[2]} min (full)"
    line += f' · <a href="../docs/reading.html#open-a-notebook">Open it</a> in {_places(app, docname)}'
    first = notebook["cells"][0]
    title, _, rest = "".join(first["source"]).partition("\n")
    first["source"] = f'{title}\n\n<p class="course-times">{line}</p>\n\n{rest.lstrip()}'
    return json.dumps(notebook)


def _places(app: Sphinx, docname: str) -> str:
    """Return the places where readers can open a notebook, with links if the address of the repository is known."""
    address, branch = (
        app.config.html_theme_options.get("repository_url"),
        app.config.html_theme_options.get("repository_branch"),
    )
    if not address:
        return f"JupyterLab with <code>make lab</code>: <code>{docname}.ipynb</code>"
    name = address.removeprefix("https://github.com/")
    path = quote(f"{docname}.ipynb")
    colab = f"https://colab.research.google.com/github/{name}/blob/{branch}/{path}"
    binder = f"https://mybinder.org/v2/gh/{name}/{branch}?urlpath=lab/tree/{path}"
    return f'JupyterLab, <a href="{colab}">Colab</a> or <a href="{binder}">Binder</a>'
