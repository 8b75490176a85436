"""Test sweeps: one run for each combination of values, and the table of the numbers that the runs report."""

import csv
import json
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

from cluster import run_notebooks
from cluster.batch import execute, sweep
from helpers import ROOT

import nbformat
import pytest

from tests.support.notebooks import notebook, text_of

pytestmark = pytest.mark.timeout(120)
CELLS = {
    "parameters": 'profile = "quick"\nepochs = 1\nrate = 0.1',
    # mkdir fails if another run of the sweep has used the folder. The summary is that of a training run.
    "train": "import json, os, pathlib\nrun = pathlib.Path(os.environ['BNN_RUNS_DIR']) / 'CNN_FC'\n"
    "run.mkdir(parents=True)\n(run / 'summary.json').write_text(json.dumps({'test': {'nll': rate + epochs}}))",
    "fail": "assert rate < 0.5 or epochs < 3, 'this one diverged'",
    "results": "from cluster.batch import sweep\nsweep.record(accuracy=1 - rate)\n"
    "sweep.record(steps=100 * epochs, commit='0a1')",
}


def test_every_combination_runs_alone_and_the_table_has_what_they_handed_over(tmp_path, capsys):
    path = notebook(tmp_path, "01_x.ipynb", **CELLS)
    (tmp_path / "values.yaml").write_text("sweep:\n  epochs: [1, 3]\n  rate: [7]\n")
    out = tmp_path / "out"
    arguments = [str(path), "-f", str(tmp_path / "values.yaml"), "--sweep", "rate=1e-3,0.5", "--output", str(out)]
    assert run_notebooks.main(arguments) == 1
    said, errors = capsys.readouterr()
    assert "3 of 4 runs done" in said
    assert "01_x.ipynb epochs=3 rate=0.5: cell fail: AssertionError: this one diverged" in errors
    names = [f"01_x__epochs={epochs}__rate={rate}" for epochs in (1, 3) for rate in (0.001, 0.5)]
    assert sorted(file.name for file in (out / "notebooks").iterdir()) == sorted(
        f"{name}.{kind}" for name in names for kind in ("ipynb", "html")
    )
    with open(out / "sweep.csv") as file:
        table = list(csv.DictReader(file))
    columns = ["notebook", "epochs", "rate", "status", "minutes", "CNN_FC nll", "accuracy", "commit", "steps"]
    assert list(table[0]) == columns
    assert [(row["epochs"], row["rate"]) for row in table] == [
        ("1", "0.001"),
        ("1", "0.5"),
        ("3", "0.001"),
        ("3", "0.5"),
    ]
    assert [row["accuracy"] for row in table] == ["0.999", "0.5", "0.999", ""]
    assert [row["CNN_FC nll"] for row in table] == ["1.001", "1.5", "3.001", ""]
    assert [row["steps"] for row in table] == ["100", "100", "300", ""]
    assert [row["commit"] for row in table] == ["0a1", "0a1", "0a1", ""]
    assert [row["status"] for row in table] == ["done"] * 3 + ["failed"]
    printed = [line.split() for line in said.splitlines() if line.startswith("01_x ")]
    assert [line[-3:] for line in printed[:3]] == [
        [a, "0a1", s] for a, s in (("0.999", "100"), ("0.5", "100"), ("0.999", "300"))
    ]
    index = (out / "index.html").read_text()
    assert "01_x; epochs 3, rate 0.001: CNN_FC nll 3.001, accuracy 0.999, commit 0a1, steps 300" in index
    assert text_of(out / "notebooks" / f"{names[0]}.ipynb", "results") == ""
    shown = nbformat.read(out / "notebooks" / f"{names[0]}.ipynb", 4).cells[-1].outputs
    assert [output.data["text/plain"] for output in shown] == ["accuracy 0.999", "steps 100, commit 0a1"]


def test_a_notebook_runs_once_for_what_it_does_not_declare():
    here, there = Path("a.ipynb"), Path("b.ipynb")
    runs = sweep.expand({here: {"rate": 1}, there: {"seed": 0}}, {"rate": [1, 2], "model": ["x"]})
    assert [(run.name, run.parameters) for run in runs] == [
        ("a__rate=1", {"rate": 1}),
        ("a__rate=2", {"rate": 2}),
        ("b", {"seed": 0}),
    ]


@pytest.mark.parametrize(
    "listed",
    [["Zürich", "Zörich"], ["Zu\u0308rich", "Zürich"], ["α", "β", "γ"], ["Bern", "bern"], ["x/y", "x y", "x-y"],
     ["", "-"], ["../up", "..", "."], ["a" * 300, "a" * 299 + "b"], ["ü" * 300, "ü" * 301], ["ß", "ss"], [None, "null"],
     [1, "1"], [True, "true"], [[1, 2], [12]], [1e-3, -1e-3], ["日本語", "日本"]],
)  # fmt: skip
def test_the_names_of_runs_differ_and_fit_on_every_file_system(listed):
    runs = sweep.expand({Path("a.ipynb"): {"x": 0, "y": 0}}, {"x": listed, "y": [0.5, 1]})
    names = [unicodedata.normalize("NFC", run.name).casefold() for run in runs]
    assert len(set(names)) == len(runs) == 2 * len(listed)
    assert all(re.fullmatch(r"a__x=[\w.+=-]*", name) and len(name.encode()) <= 120 for name in names)
    assert [run.values["x"] for run in runs] == [value for value in listed for _ in range(2)]


def test_values_whose_texts_run_into_each_other_have_names_of_their_own():
    swept = {"x": ["1__y=2", "1"], "y": ["3", "2__y=3"]}
    runs = sweep.expand({Path("a.ipynb"): {"x": "", "y": ""}}, swept)
    assert len({run.name for run in runs}) == 4


def test_names_are_readable_and_depend_on_the_values_alone():
    def names(*listed):
        return [run.name for run in sweep.expand({Path("a.ipynb"): {"x": ""}}, {"x": list(listed)})]

    assert names("Zürich", "BNN_FC_flip", 1e-3, True) == ["a__x=Zürich", "a__x=BNN_FC_flip", "a__x=0.001", "a__x=true"]
    assert names("up here", "b")[0] == names("c", "up here")[1] != names("up/here")[0]
    assert names("up here")[0].startswith("a__x=up-here-")


def test_results_and_parameters_with_the_names_of_columns_get_columns_of_their_own():
    run = sweep.Run(Path("a.ipynb"), "a", {}, {"noise": 0.12345678, "status": "on", "city": None})
    found = {"noise": 10.0, "minutes": 777, "notebook": 3, "status": 4, "nll": 0.5}
    (row,) = sweep.rows([sweep.Result(run, "a", 1.5, results=found)])
    assert row == {
        "notebook": "a", "noise": "0.12345678", "status (swept)": "on", "city": "null", "status": "done",
        "minutes": 1.5, "noise (result)": 10.0, "minutes (result)": 777, "notebook (result)": 3, "status (result)": 4,
        "nll": 0.5,
    }  # fmt: skip
    assert "0.12345678" in sweep.as_text([row]) and "0.12345678" in sweep.heading("A", run.values, {})


def test_a_single_run_shows_its_results_on_the_index_too(tmp_path):
    work = "from cluster.batch import sweep\nsweep.record(nll=0.25)"
    path = notebook(tmp_path, "01_x.ipynb", prose="# A title", work=work)
    (result,) = execute.run(sweep.expand({path: {}}), output=tmp_path / "out")
    assert result.results == {"nll": 0.25} and result.title == "A title: nll 0.25"
    assert not (tmp_path / "out" / "sweep.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sweep", "rate"], "--sweep rate: expected different values"),
        (["--sweep", "rate="], "--sweep rate: expected different values"),
        (["--sweep", "rate=1,1"], "--sweep rate: expected different values"),
        (["--sweep", "rat=1,2"], "No notebook has a parameter rat."),
        (["--sweep", "rate={,"], "-p or --sweep rate: "),
        (["-p", "epochs", "three"], "'three' is a text, but the notebook's default 1 is a number"),
        (["-f", "values.yaml"], "expected 'sweep: {epochs: [3, 5]}'"),
        (["--sweep", "rate=1,2", "--in-place"], "a notebook keeps the outputs of one run"),
        (["--ranks", "0"], "--ranks 0: expected 1 or more"),
    ],
)
def test_nothing_runs_if_the_sweep_makes_no_sense(tmp_path, monkeypatch, capsys, arguments, said):
    path = notebook(tmp_path, "01_x.ipynb", **CELLS)
    monkeypatch.chdir(tmp_path)
    Path("values.yaml").write_text("sweep: 3\n")
    assert run_notebooks.main([str(path), "--output", str(tmp_path / "out"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, [1.0], "two\nlines"])
def test_only_finite_numbers_and_texts_of_one_line_are_recorded(value):
    with pytest.raises(ValueError, match="takes finite numbers and texts of one line, but nll is"):
        sweep.record(nll=value)


def test_results_of_training_runs_are_found_below_their_folder(tmp_path):
    for name, scores in {"BNN_FC_flip": {"nll": 0.5, "ece": 0.1}, "CNN_FC": {"nll": 0.75}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps({"test": scores}))
    assert sweep.results(None, tmp_path) == {"BNN_FC_flip nll": 0.5, "BNN_FC_flip ece": 0.1, "CNN_FC nll": 0.75}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [("cluster.run_notebooks", ["tensorflow"]), ("cluster.batch.sweep", ["tensorflow", "nbformat", "papermill"])],
)
def test_the_command_and_a_notebook_s_line_import_nothing_heavy(module, heavy):
    script = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("value", ["-1e-3", "-2", "-.inf", "-05:00", "-x"])
def test_a_value_may_begin_with_a_minus(value):
    options = run_notebooks.parse(["a.ipynb", "-p", "bias", value, "--ranks", "1", "-p", "depth", "3"])
    assert [(name, text.strip()) for name, text in options.p] == [("bias", value), ("depth", "3")]
    assert (options.notebooks, options.ranks) == ([Path("a.ipynb")], 1)
