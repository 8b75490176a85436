"""The hook for notebooks keeps outputs, removes what changes with every run, and names what it cannot mend."""

import json
import subprocess
import sys

from helpers import ROOT

import nbformat
import pytest
from nbformat import v4

from tests.support import tidy_notebooks

COMMITTED = sorted((ROOT / "notebooks").rglob("*.ipynb"))


def notebook(*outputs, counts=(1, 2)):
    """A notebook of two cells, the first with these outputs, with all the metadata that tools leave."""
    cells = [v4.new_code_cell(f"{n}", execution_count=n, id=f"cell-{n}") for n in counts]
    cells[0].outputs = list(outputs)
    cells[0].metadata = {"tags": ["parameters"], "collapsed": True, "execution": {"iopub.execute_input": "2026-01-01"}}
    cells += [v4.new_code_cell("", id="blank"), v4.new_markdown_cell("# Text", id="text", metadata={"scrolled": True})]
    made = v4.new_notebook(cells=cells)
    made.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"},
        "language_info": {"name": "python", "version": "3.11.7"},
        "widgets": {"state": {}},
    }
    return json.loads(nbformat.writes(made))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_notebooks_are_tidy(path):
    text = path.read_text()
    made = json.loads(text)
    tidy_notebooks.tidy(made)
    assert made == json.loads(text)
    assert list(tidy_notebooks.problems(made)) == []


def test_outputs_stay_and_volatile_metadata_goes():
    picture = {"image/png": {"alt": "a line that rises"}}
    shown = v4.new_output("display_data", data={"image/png": "AA=="}, metadata=picture | {"engine": {"msg_id": "7"}})
    made = notebook(shown)
    tidy_notebooks.tidy(made)
    assert made["metadata"] == {
        "kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"},
        "language_info": {"name": "python"},
    }
    assert [cell["metadata"] for cell in made["cells"]] == [{"tags": ["parameters"]}, {}, {}, {}]
    assert made["cells"][0]["outputs"] == [dict(shown) | {"metadata": picture}]
    nbformat.validate(nbformat.from_dict(made))


@pytest.mark.parametrize("counts", [(2, 1), (1, 3), (2, 3), (1, None)])
def test_cells_that_were_not_run_in_order_are_a_problem(counts):
    assert list(tidy_notebooks.problems(notebook())) == []
    (problem,) = tidy_notebooks.problems(notebook(counts=counts))
    assert "not run in order" in problem


def test_a_notebook_that_nobody_ran_is_no_problem():
    assert list(tidy_notebooks.problems(notebook(counts=(None, None)))) == []


def test_a_local_path_in_an_output_is_a_problem_and_in_a_picture_it_is_chance():
    fine = v4.new_output("stream", text="data/mnist.npz, build/runs/home/x and 3/home\n")
    picture = v4.new_output("display_data", data={"image/png": "iVBO+/home/ab=="})
    assert list(tidy_notebooks.problems(notebook(fine, picture))) == []
    written = v4.new_output("stream", text=["saved in\n", "/home/ada/course/build\n"])
    shown = v4.new_output("display_data", data={"text/html": "<a href='/lus/grand/x'>"})
    for output, path in ((written, "/home/ada/course/build"), (shown, "/lus/grand/x")):
        (problem,) = tidy_notebooks.problems(notebook(fine, output))
        assert f"cell cell-1 holds the path {path}:" in problem


def test_the_command_mends_what_it_can_and_fails_until_nothing_is_left(tmp_path):
    path = tmp_path / "own.ipynb"

    def run():
        command = [sys.executable, "-m", "tests.support.tidy_notebooks", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr

    path.write_text(json.dumps(notebook()))
    status, said = run()
    assert status == 1 and f"{path}: removed metadata" in said
    assert run() == (0, "")
    path.write_text(json.dumps(notebook(counts=(2, 3))))
    run()
    status, said = run()
    assert status == 1 and "not run in order" in said
