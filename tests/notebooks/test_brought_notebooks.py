"""Test batch runs of notebooks that readers bring: of any kernel, format, name and folder."""

import json
import os
import re
import sys
from urllib.parse import unquote

from cluster.batch import execute, outputs, sweep

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tests.support.notebooks import command, notebook

pytestmark = pytest.mark.timeout(240)


def brought(path, *cells, **metadata):
    """Write a notebook without the usual metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    content = dict(new_notebook(cells=cells)) | {"metadata": metadata}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def printed(path):
    cells = nbformat.read(path, 4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", [])).split()


@pytest.mark.timeout(700)
def test_one_bad_notebook_never_ends_the_batch(tmp_path):
    kind = "application/vnd.jupyter.widget-view+json"
    show = f"display({{'{kind}': {{'model_id': '5d2'}}, 'text/plain': 'a bar'}}, raw=True)"
    lost = new_markdown_cell("- ![lost](attachment:a.png) ![later]() ![folder](.)")
    sources = [
        brought(tmp_path / "1_none.ipynb", "print('none')"),
        brought(tmp_path / "2_R.ipynb", "print(2^3)", kernelspec={"name": "ir", "language": "R"}),
        brought(tmp_path / "3_widget.ipynb", show, widgets={"application/vnd.jupyter.widget-state+json": {"5d2": {}}}),
        brought(tmp_path / "4_lost.ipynb", lost, "print('lost')"),
        brought(tmp_path / "5_exit.ipynb", "import sys\nsys.exit('no data')"),
        brought(tmp_path / "6_results.ipynb", f"display({{'{sweep.KIND}': 3, 'text/plain': ''}}, raw=True)"),
        tmp_path / "7_broken.ipynb",
        brought(tmp_path / "8_{last}.ipynb", "print('last')"),
    ]
    sources[6].write_text('{"cells": [')
    out = tmp_path / "out {x} [y]"
    run = command(*sources, "--output", out)
    said, errors = run.communicate(timeout=600)
    assert run.returncode == 1 and "Traceback" not in errors
    assert re.findall(r"^(\d)_\S+ +(done|FAILED)", said, re.M) == [
        ("1", "done"), ("2", "FAILED"), ("3", "done"), ("4", "done"),
        ("5", "FAILED"), ("6", "FAILED"), ("7", "FAILED"), ("8", "done"),
    ]  # fmt: skip
    told = dict(re.findall(r"^(\d)_\S+: (.*)$", errors, re.M))
    assert told["2"].startswith("its language is R, and no kernel ir for it is installed here. ")
    assert told["5"].endswith(": SystemExit: no data")
    assert told["6"].startswith("its page cannot be made (TypeError") and "cannot be read as a notebook" in told["7"]
    index = (out / "index.html").read_text()
    assert index.count('<th scope="row">') == 8 and index.count("<td>done</td>") == 4
    for link in re.findall('href="([^"]*)"', index):
        assert (out / unquote(link)).is_file()
    copies = out / "notebooks"
    assert printed(copies / "1_none.ipynb") == ["none"] and printed(copies / "8_{last}.ipynb") == ["last"]
    assert not (copies / "2_R.ipynb").exists() and not (copies / ".part.ipynb").exists()
    assert "a bar" in (copies / "3_widget.html").read_text() and (copies / "4_lost.html").is_file()


def test_another_language_is_run_by_its_own_kernel(tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "toy" / "kernel.json"
    spec.parent.mkdir(parents=True)
    words = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    own = {"argv": words, "language": "toy", "display_name": "Toy", "env": {"TOY": "own"}}
    spec.write_text(json.dumps(own))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    path = brought(tmp_path / "a.ipynb", "import os\nprint(os.environ.get('TOY'))", kernelspec={"name": "toy"})
    (result,) = execute.run(sweep.expand({path: {}}), output=tmp_path / "out")
    assert result.ok, result.message
    assert printed(result.page.with_suffix(".ipynb")) == ["own"]


def test_notebooks_of_one_name_have_copies_pages_and_rows_of_their_own(tmp_path):
    parts = ["part1", "part2"]
    for part in parts:
        (tmp_path / part).mkdir()
    work = "import os\nprint(os.environ['BNN_RUNS_DIR'].rsplit('runs/')[1], '{}', seed)"
    books = [notebook(tmp_path / part, "x.ipynb", parameters="seed = 0", work=work.format(part)) for part in parts]
    out = tmp_path / "out"
    done = list(execute.run(sweep.expand({book: {"seed": 0} for book in books}, {"seed": [1]}), output=out))
    assert all(result.ok for result in done)
    assert [printed(result.page.with_suffix(".ipynb")) for result in done] == [
        [f"{part}/x__seed=1", part, "1"] for part in parts
    ]
    links = re.findall('href="([^"]*)"', (out / "index.html").read_text())
    assert [unquote(link) for link in links] == [*(f"notebooks/{part}/x__seed=1.html" for part in parts), "sweep.csv"]
    assert [row["notebook"] for row in sweep.rows(done)] == ["part1/x", "part2/x"]


@pytest.mark.parametrize("given", [["a.ipynb"], ["../b/a.ipynb"]], ids=["itself", "another"])
def test_an_output_folder_over_notebooks_is_refused_and_their_sources_stay(tmp_path, given):
    course, other = tmp_path / "course", tmp_path / "b"
    for path in (course / "notebooks" / "a.ipynb", other / "a.ipynb"):
        brought(path, "print(1)")
    before = (course / "notebooks" / "a.ipynb").read_bytes()
    path = (course / "notebooks" / given[0]) if given == ["a.ipynb"] else other / "a.ipynb"
    with pytest.raises(outputs.OutputError, match=r"would replace \S+/course/notebooks/a\.ipynb"):
        next(execute.run(sweep.expand({path: {}}), output=course))
    assert (course / "notebooks" / "a.ipynb").read_bytes() == before
    assert sorted(path.name for path in course.rglob("*")) == ["a.ipynb", "notebooks"]


def test_figures_are_drawn_whatever_backend_the_shell_names(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    path = brought(tmp_path / "a.ipynb", "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
    (result,) = execute.run(sweep.expand({path: {}}), output=tmp_path / "out")
    assert re.search('<img[^>]* src="data:image/png', result.page.read_text()) and os.environ["MPLBACKEND"] == "Agg"


@pytest.mark.parametrize("variables", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}], ids=["locale", "output"])
def test_names_that_a_terminal_cannot_print_end_nothing(tmp_path, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    sources = [brought(tmp_path / name, "print('ü δ')") for name in ("Übung_δ #2 (50%).ipynb", "b.ipynb")]
    run = command(*sources, "--output", tmp_path / "out ü")
    _, errors = run.communicate(timeout=150)
    assert run.returncode == 0, errors
    for source in sources:
        assert "ü δ" in (tmp_path / "out ü" / "notebooks" / source.with_suffix(".html").name).read_text("utf-8")


def test_old_notebooks_are_run_in_place(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = brought(tmp_path / "old.ipynb", "print('old')")
    content = json.loads(path.read_text()) | {"nbformat_minor": 0}
    for cell in content["cells"]:
        del cell["id"]
    path.write_text(json.dumps(content))
    last = brought(tmp_path / "next.ipynb", "print('next')")
    run = command(path, last, "--in-place", "--output", "~/out", cwd=tmp_path)
    _, errors = run.communicate(timeout=150)
    assert run.returncode == 0, errors
    assert printed(path) == ["old"] and printed(last) == ["next"]
    assert json.loads(path.read_text())["nbformat_minor"] == 0 and "id" not in json.loads(path.read_text())["cells"][0]
    assert (tmp_path / "home" / "out" / "index.html").is_file() and not (tmp_path / "~").exists()


def test_long_output_arrives_whole(tmp_path):
    work = "for step in range(1000):\n    print(step, flush=True)\nprint('x' * 3_000_000)\nprint('the end')"
    (result,) = execute.run(sweep.expand({brought(tmp_path / "a.ipynb", work): {}}), output=tmp_path / "out")
    assert result.ok and len(printed(result.page.with_suffix(".ipynb"))) == 1003
    assert "the end" in result.page.read_text()[-20000:]


def test_an_output_that_arrives_late_is_no_time_limit(tmp_path, monkeypatch):
    def late(*_, **__):
        raise TimeoutError("Timeout waiting for IOPub output")

    monkeypatch.setattr(execute.papermill, "execute_notebook", late)
    (result,) = execute.run(sweep.expand({brought(tmp_path / "a.ipynb", "1"): {}}), output=tmp_path / "out")
    assert result.message == "TimeoutError: Timeout waiting for IOPub output"
