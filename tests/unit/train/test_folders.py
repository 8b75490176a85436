"""Runs in folders of any name, beside the files and the runs of others."""

import json
import os
import subprocess
import sys
from pathlib import Path

from helpers import ROOT, models
from helpers.distributed import ALONE
from helpers.files import expanded
from helpers.runs import Checkpoints, History, Run, restore_model, saved
from helpers.train import command

import pytest
import tensorflow as tf

pytestmark = pytest.mark.usefixtures("fresh_flags")
NAMES = ["fold[1]", "lr=[1e-3]", "a*", "who?", "back\\slash", "[!a]{b,c}", 'd\'été "1"', " blank ", "./~", "L\udce4ufe"]


def train(folder, *more, model="CNN_FC"):
    again = ["--resume=false", "--overwrite=false", "--init_from="]  # flags stay set from one call to the next
    return command.main([f"--model={model}", f"--output={folder}", "--num_monte_carlo=1", *again, *more])


def steps(folder):
    return [Path(path).name for path in saved(folder)]


def save(folder, numbers, resume=False):
    variable = tf.Variable(0.0)
    with Checkpoints(folder, ALONE, tf.train.Checkpoint(v=variable), {}) as checkpoints:
        checkpoints.open(resume)
        before = variable.numpy()
        for number in numbers:
            variable.assign(number)
            checkpoints.save(number, History([], []))
    return before


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_kept_resumed_and_read_under_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    others = ["fold1", "lr=1", "ab", "whoa", "b{b,c}"]
    for other in others:
        save(other, [5])
    save(name, [5, 10, 15])
    assert save(name, [20], resume=True) == 15
    assert steps(name) == ["step-15", "step-20"]
    found = sorted(path.name for path in Path.cwd().joinpath(name, "checkpoints").iterdir())
    assert len(found) == 5 and all(word in str(found) for word in ("'checkpoint'", "step-15.index", "step-20.index"))
    assert "/" not in Path.cwd().joinpath(name, "checkpoints", "checkpoint").read_text()
    assert [steps(other) for other in others] == [["step-5"]] * len(others)


def test_the_command_trains_resumes_and_starts_a_bnn_from_such_a_folder(tmp_path):
    for name in ("twin[a]", "L\udce4ufe"):
        folder = tmp_path / name
        assert train(folder, "--iterations=2") == 0 and train(folder, "--iterations=4", "--resume") == 0
        assert steps(folder / "CNN_FC") == ["step-2", "step-4"]
        start = [f"--init_from={folder / 'CNN_FC'}", "--iterations=1"]
        assert train(tmp_path / f"bnn {name}", *start, model="BNN_FC_flip") == 0
        restore_model(models.build("CNN_FC", (28, 28, 1), 10), folder / "CNN_FC")


def test_an_error_names_the_folder_as_the_user_knows_it(tmp_path):
    save(tmp_path / "fold[1]", [5])
    with pytest.raises(ValueError, match="does not fit") as caught:
        restore_model(models.build("CNN_FC", (28, 28, 1), 10), tmp_path / "fold[1]")
    assert str(tmp_path / "fold[1]") in str(caught.value)


def test_a_tilde_is_the_home_folder_wherever_a_folder_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.cfg").write_text("--output=~/runs\n--iterations=1\n")
    assert train("gone", "--flagfile=~/my.cfg") == 0
    assert steps("~/runs/CNN_FC") == steps(tmp_path / "runs" / "CNN_FC") == ["step-1"]
    restore_model(models.build("CNN_FC", (28, 28, 1), 10), "~/runs/CNN_FC")
    checkpoint = tf.train.Checkpoint(v=tf.Variable(0.0))
    with Run(folder="~/other").open(checkpoint, {}):
        assert (tmp_path / "other" / "settings.json").exists()
    assert train("bnn", "--init_from=~/runs/CNN_FC", "--iterations=1", model="BNN_FC_flip") == 0
    assert not (tmp_path / "~").exists()
    assert expanded("./~/a") == tmp_path / "~" / "a" == expanded(expanded("./~/a"))


@pytest.mark.parametrize(("home", "text"), [(None, "~"), (None, "~/a"), ("", "~/a"), ("/h", "~nobody-of-this-name/a")])
def test_a_home_folder_that_is_not_known_is_one_error(tmp_path, monkeypatch, capsys, home, text):
    def nobody(key):
        raise KeyError(key)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setattr("pwd.getpwnam", nobody)
    monkeypatch.setenv("BNN_QUIET", "1")  # else the first training of a process has a line about its data
    monkeypatch.delenv("HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    for flag in ("--output", "--data_dir", "--init_from"):
        given = [f"--output={tmp_path}", "--iterations=1", "--init_from=", f"{flag}={text}"]
        assert train(tmp_path, *given, model="BNN_FC_flip") == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert text in line and "home folder of ~" in line
        command.FLAGS["data_dir"].unparse()
    assert expanded("a/~") == Path("a/~")


def test_overwriting_removes_the_run_and_nothing_else(tmp_path):
    folder = tmp_path / "CNN_FC"
    assert train(tmp_path, "--iterations=2", "--eval_freq=1") == 0
    mine = ["notes.txt", "weights_best.png", "data/a.csv", "checkpoints/step-notes.index", "checkpoints/old/x"]
    for name in mine:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    nested = train(folder, "--iterations=1")
    assert nested == 0 and train(tmp_path, "--iterations=1", "--overwrite") == 0
    assert all((folder / name).read_text() == "mine" for name in mine)
    assert steps(folder) == ["step-1"] == steps(folder / "CNN_FC")
    assert not (folder / "checkpoints" / "step-2.index").exists()
    assert json.loads((folder / "summary.json").read_text())["training"]["step"] == 1


def test_checkpoints_on_another_disk_are_overwritten_through_their_link(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "CNN_FC").mkdir()
    (tmp_path / "CNN_FC" / "checkpoints").symlink_to(disk)
    assert train(tmp_path, "--iterations=2") == 0 and train(tmp_path, "--iterations=1", "--overwrite") == 0
    assert (tmp_path / "CNN_FC" / "checkpoints").is_symlink()
    assert sorted(path.name for path in disk.glob("*.index")) == ["step-1.index"]


@pytest.mark.parametrize("name", ["notes.txt", "settings.json", "checkpoints/ckpt-1.index"])
def test_overwriting_in_a_folder_that_holds_no_run_is_refused(tmp_path, capsys, name):
    path = tmp_path / "CNN_FC" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"editor": 1}')
    assert train(tmp_path, "--iterations=1", "--overwrite") == 1
    assert f"{tmp_path / 'CNN_FC'} holds no run" in capsys.readouterr().err
    assert path.read_text() == '{"editor": 1}'


@pytest.mark.parametrize("name", ["settings.json", "history.csv", "summary.json"])
def test_a_file_of_a_runs_name_that_no_run_wrote_is_not_written_over(tmp_path, capsys, name):
    path = tmp_path / "CNN_FC" / name
    path.parent.mkdir()
    path.write_text("{}")
    assert train(tmp_path, "--iterations=1") == 1
    assert f"but {name}, which a run would write over" in capsys.readouterr().err and path.read_text() == "{}"


def test_a_run_that_has_no_checkpoint_yet_is_begun_anew(tmp_path):
    assert train(tmp_path, "--iterations=2") == 0
    for path in (tmp_path / "CNN_FC" / "checkpoints").iterdir():
        path.unlink()
    assert train(tmp_path, "--iterations=1") == 0


def test_what_prevents_checkpoints_is_known_before_the_training(tmp_path, monkeypatch, capsys):
    (tmp_path / "CNN_FC").mkdir()
    (tmp_path / "CNN_FC" / "checkpoints").write_text("a file")
    assert train(tmp_path, "--iterations=1", "--print_step=1") == 1
    said = capsys.readouterr()
    assert "step 1" not in said.out and f"can be written in {tmp_path}/CNN_FC/checkpoints" in said.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_a_locale_without_accents_changes_neither_status_nor_files(tmp_path, variables):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    (tmp_path / "my.cfg").write_text(f"--output={tmp_path}/Läufe\n--iterations=1\n", "utf-8")
    given = [sys.executable, "-m", "helpers.train", "--model=CNN_FC", f"--flagfile={tmp_path}/my.cfg"]
    done = subprocess.run(given, cwd=ROOT, env=kept | variables, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"accuracy" in done.stdout and b"kept in" in done.stdout
    assert (tmp_path / "Läufe" / "CNN_FC" / "summary.json").exists()
