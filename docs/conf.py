"""The book: how Sphinx makes a web site of the notebooks, the manuals and the docstrings. `make book` builds it.

The source folder is the course itself, so links between notebooks, manuals and code work as they do on a code host. No
notebook is executed: the pages show the outputs that are committed.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "docs" / "_ext")]

from cluster.batch import mathjax  # noqa: E402

project = "Bayesian neural networks"
html_title = project
author = "the authors of the course"
language = "en"
root_doc = "README"
REPOSITORY = os.environ.get("BNN_REPOSITORY", "")  # address of the repository that readers can open in Colab and Binder

# ---- What is in the book
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/api/**",
    "notebooks/*.ipynb",
    "notebooks/jobs/*.ipynb",
    "cluster/*.md",
    "cluster/balsam/*.md",
    "data/README.md",
]
exclude_patterns = [".venv", "build", "tests", "notebooks/solutions", "**/.ipynb_checkpoints", ".git", "data/[!R]*"]

# ---- How it is read
extensions = [
    "myst_nb",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "autoapi.extension",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
    "course_pages",
    "docstrings",
    "figures",
    "solutions",
]
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_image_options = {}
nb_number_source_lines = False
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath", "deflist"]
myst_dmath_double_inline = True
myst_heading_anchors = 4
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
# Horovod and its exceptions are no part of the course.
suppress_warnings = ["autoapi.python_import_resolution"]

# ---- The API, read from the source without importing it
autoapi_dirs = [str(ROOT / "helpers"), str(ROOT / "cluster")]
autoapi_root = "docs/api"
autoapi_add_toctree_entry = False
autoapi_python_class_content = "class"
autoapi_options = ["members", "undoc-members", "show-module-summary"]
autoapi_ignore = ["*/profile_mpi/*", "*/setup/*", "*/templates/*"]
autoapi_keep_files = False
default_role = "code"
add_module_names = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False  # the course names what it returns, and gives types as annotations

# ---- How it looks. Nothing is fetched from the network.
html_theme = "sphinx_book_theme"
FIGURES = ROOT / "build" / "book-figures"  # thumbnails of the gallery
FIGURES.mkdir(parents=True, exist_ok=True)
html_context = {"default_mode": "auto"}
html_static_path = ["_static", str(mathjax.SCRIPT), str(FIGURES)]
html_favicon = "_static/icon.svg"
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_copy_source = True
html_show_sourcelink = False
html_last_updated_fmt = ""
mathjax_path = mathjax.SCRIPT.name
mathjax_options = {"defer": "defer"}
mathjax3_config = {"options": {"enableMenu": False}}
copybutton_exclude = ".linenos, .gp, .go"
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search field is in the sidebar
    "use_download_button": True,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
if REPOSITORY:
    html_theme_options |= {
        "repository_url": REPOSITORY,
        "repository_branch": os.environ.get("BNN_BRANCH", "main"),
        "use_repository_button": True,
        "launch_buttons": {"binderhub_url": "https://mybinder.org", "colab_url": "https://colab.research.google.com"},
    }
html_additional_pages = {"index": "front.html"}
templates_path = ["_templates"]
