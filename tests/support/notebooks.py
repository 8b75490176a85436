"""Notebooks that tests write, and the driver that runs them."""

import os
import subprocess
import sys
import time

from helpers import ROOT

import nbformat
import psutil

PICTURE = (
    "from IPython.display import display\n"
    "dot = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABh6FO1AAAAABJRU5ErkJg'\n"
    "dot += 'gg=='\n"
    "display({'image/png': dot, 'text/plain': 'a dot'}, metadata={'image/png': {'alt': 'a dot'}}, raw=True)"
)


def notebook(folder, name, **cells):
    """A notebook file in `folder`: cells by id; `prose...` are Markdown, `parameters` is tagged so."""
    made = []
    for key, source in cells.items():
        make = nbformat.v4.new_markdown_cell if key.startswith("prose") else nbformat.v4.new_code_cell
        made.append(make(source, id=key, metadata={"tags": ["parameters"]} if key == "parameters" else {}))
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    path = folder / name
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel}), path)
    return path


def good(folder, name="01_good.ipynb", **cells):
    return notebook(
        folder,
        name,
        prose="# A `good` one\n[The next](02_bad.ipynb#where), [another](https://example.org/x.ipynb), $x^2$",
        parameters='profile = "quick"\nepochs = 3  # how many\nrate = 0.1',
        work="import os\nprint(profile, epochs, rate, os.environ['BNN_RANKS'], os.environ['BNN_QUIET'])",
        value="epochs",
        picture=PICTURE,
        **cells,
    )


def command(*arguments, **options):
    words = [sys.executable, "-m", "cluster.run_notebooks", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, env=environment, text=True, stdout=-1, stderr=-1, **options)


def text_of(path, cell):
    outputs = next(c for c in nbformat.read(path, 4).cells if c.id == cell).outputs
    return "".join(output.get("text", "") for output in outputs)


def wait_for(mark, run):
    """The run's processes, once the notebook has made the file `mark`."""
    until = time.monotonic() + 90
    while not mark.exists():
        assert run.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    return psutil.Process(run.pid).children(recursive=True)
