"""The training command: its flags, old and new, what it writes, and how it refuses."""

import json
import os
import re
import subprocess
import sys

from helpers import ROOT, models
from helpers.files import read_csv
from helpers.train import choices, flags
from helpers.train import command as train

import numpy as np
import pytest
import tensorflow as tf

pytestmark = pytest.mark.usefixtures("fresh_flags")
# As the older tutorial had it, blanks and quotes included.
OLDER = """--UseEpoch=True 
--batch_size=64 
--bnnConv='BNN_conv_flip'
--cnnConv= 'CNN_Conv'
--data_dir='/home/somebody/DATA/mnist.npz'
--epochs=10 
--iteration=8000
--kmp_affinity='granularity=fine,verbose,compact,1,0'
--kmp_blocktime=0
--learning_rate=0.001
--model_data='./results/'
--model_type='BNN'
--num_inter=1
--num_intra=128
--print_step=10
--verbose=False
"""  # noqa: W291
OLDER_CIFAR = """--DATA_PATH=/home/somebody/cifar-10-batches-py
--model_dir=./results/BNN_CIFAR10_Data_8rank/
--DATA_NAME=CIFAR-10
--verbose=True
--num_monte_carlo=10
--batch_size=64
--USE_EPOCH=False
--plotting=False
--epochs=10
--eval_freq=10
--learning_rate=0.0001
--iterations=10
--kl_regularizer=1.0
--print_step=10
"""


def parse(*arguments):
    flags.FLAGS(["train", *arguments])
    return flags.FLAGS


def summary(folder, model):
    return json.loads((folder / model / "summary.json").read_text())


def test_flagfiles_of_the_older_tutorial_mean_what_they_meant(tmp_path):
    file = tmp_path / "config.cfg"
    file.write_text(OLDER)
    found = parse(f"--flagfile={file}")
    assert choices.choose_model(found) == ("BNN_conv_flip", "mnist")
    assert choices.choose_length(found, world_size=4) == (10, None)
    assert (found.cnnConv, found.data_dir, found.output) == ("CNN_conv", "/home/somebody/DATA/mnist.npz", "./results/")
    assert (found.num_intra, found.kmp_blocktime, found.kmp_affinity[:16]) == (128, 0, "granularity=fine")


def test_flagfiles_of_the_older_cifar_script_too(tmp_path):
    file = tmp_path / "config.cfg"
    file.write_text(OLDER_CIFAR)
    found = parse(f"--flagfile={file}")
    assert choices.choose_model(found) == ("CIFAR10_BNN_model", "cifar10")
    assert choices.choose_length(found, world_size=2) == (5, 5)
    assert (found.eval_freq, found.num_monte_carlo, found.data_dir[-19:]) == (10, 10, "cifar-10-batches-py")


def test_an_older_flagfile_runs_with_its_paths_changed(tmp_path, capsys):
    file = tmp_path / "config.cfg"
    file.write_text(
        OLDER.replace("--data_dir='/home/somebody/DATA/mnist.npz'\n", "").replace("./results/", str(tmp_path))
    )
    short = ["--UseEpoch=False", "--iteration=20", "--num_intra=0", "--num_inter=0", "--num_monte_carlo=2"]
    assert train.main([f"--flagfile={file}", *short]) == 0
    assert "step 10: loss" in capsys.readouterr().out
    assert summary(tmp_path, "BNN_conv_flip")["training"]["step"] == 20
    assert os.environ["KMP_BLOCKTIME"] == "0"


def test_a_bnn_starts_from_its_twins_run_and_resumes_with_the_same_priors(tmp_path, capsys):
    short = [f"--output={tmp_path}", "--num_monte_carlo=2", "--decay=cosine", "--augment"]
    assert train.main([*short, "--model=CNN_FC", "--iterations=30"]) == 0
    trained = summary(tmp_path, "CNN_FC")["training"]["nll"]
    start = ["--model=BNN_FC_flip", "--model_type=BNN", f"--init_from={tmp_path / 'CNN_FC'}", "--prior_scale=0.1"]
    assert train.main([*short, *start, "--iterations=3"]) == 0
    assert summary(tmp_path, "BNN_FC_flip")["training"]["nll"] < trained
    assert train.main([*short, "--model=BNN_FC_flip", "--iterations=4", "--resume", "--init_from="]) == 1
    assert "its run had init_from" in capsys.readouterr().err
    assert train.main([*short, *start, "--iterations=4", "--resume"]) == 0
    assert summary(tmp_path, "BNN_FC_flip")["training"]["step"] == 4
    short += ["--overwrite", "--resume=false"]  # flags stay set from one call to the next
    assert train.main([*short, *start[1:], "--model=CNN_FC", "--iterations=1"]) == 1
    assert "CNN_FC is not Bayesian" in capsys.readouterr().err
    assert (tmp_path / "CNN_FC" / "checkpoints").exists()
    assert train.main([*short, "--model=BNN_FC_flip", "--iterations=1", f"--init_from={tmp_path}"]) == 1
    assert "holds no checkpoint" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", models.NAMES)
def test_every_model_trains(name, tmp_path):
    arguments = [f"--model={name.upper()}", f"--output={tmp_path}", "--iterations=3", "--num_monte_carlo=2"]
    assert train.main([*arguments, "--batch_size=32", "--plotting"]) == 0
    found = summary(tmp_path, name)
    assert found["model"] == name and found["world_size"] == 1 and found["training"]["step"] == 3
    assert set(found["test"]) == {"accuracy", "nll", "brier", "ece"} and 0 < found["test"]["nll"] < 20
    assert "not official" in found["data"][0]
    assert bool(list((tmp_path / name).glob("weights_*.png"))) == ("BNN" in name)
    assert json.loads((tmp_path / name / "config.json").read_text())["batch_size"] == 32


def test_a_run_tells_its_steps_and_epochs_and_goes_on_bit_for_bit(tmp_path):
    def run(folder, epochs, *more):
        arguments = ["--model=BNN_FC_flip", f"--output={tmp_path / folder}", f"--epochs={epochs}"]
        assert train.main([*arguments, "--num_monte_carlo=2", "--kl_annealing_epochs=2", *more]) == 0
        return tmp_path / folder / "BNN_FC_flip"

    whole = run("whole", 3)
    run("parts", 1)
    parts = run("parts", 3, "--resume")
    for name in ("history.csv", "steps.csv"):
        one, other = read_csv(whole / name), read_csv(parts / name)
        assert [row["step"] for row in one] == [row["step"] for row in other]
    readers = [tf.train.load_checkpoint(str(folder / "checkpoints")) for folder in (whole, parts)]
    # The histories hold seconds.
    names = [name for name in readers[0].get_variable_to_shape_map() if not re.match("save_counter|histories", name)]
    assert len(names) > 15
    for name in names:
        assert np.array_equal(readers[0].get_tensor(name), readers[1].get_tensor(name)), name


def test_evaluation_on_held_out_training_examples(tmp_path):
    arguments = ["--model=CNN_FC", f"--output={tmp_path}", "--epochs=1", "--eval_freq=20", "--validation_examples=500"]
    assert train.main(arguments) == 0
    found = json.loads((tmp_path / "CNN_FC" / "validation.json").read_text())
    assert [row["step"] for row in found] == [20, 40] and found[1]["nll"] < found[0]["nll"]
    assert json.loads((tmp_path / "CNN_FC" / "settings.json").read_text())["examples"] == 3500


@pytest.mark.parametrize(
    ("argument", "message", "status"),
    [
        ("--model=BNN_FC", "BNN_FC_flip, BNN_FC_nonflip", 2),
        ("--epochs=0", "epochs", 2),
        ("--epoch=3", "epoch", 2),
        ("--flagfile=nowhere.cfg", "nowhere.cfg", 2),
        ("mnist", "--name=value", 2),
        ("--data_dir=nowhere", "nowhere", 1),
        ("--batch_size=5000", "5,?000", 1),
        ("--use_epochs=false", "--iterations", 1),
        ("--learning_rate=1e30", "learning rate", 1),
    ],
)
def test_what_cannot_be_is_one_line_and_a_status(argument, message, status, tmp_path, capsys):
    given = ["--model=CNN_FC", f"--output={tmp_path}", "--epochs=1"]
    assert train.main([*given, argument]) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("helpers.train:")]
    assert len(lines) == 1 and re.search(message, lines[0])


def test_a_run_that_is_there_is_not_lost(tmp_path, capsys):
    arguments = ["--model=CNN_FC", f"--output={tmp_path}", "--iterations=2"]
    assert train.main(arguments) == 0
    before = (tmp_path / "CNN_FC" / "summary.json").read_text()
    assert train.main(arguments) == 1 and "Resume it" in capsys.readouterr().err
    assert (tmp_path / "CNN_FC" / "summary.json").read_text() == before
    assert train.main([*arguments, "--overwrite"]) == 0


def test_help_explains_every_flag_with_its_old_names():
    done = subprocess.run(
        [sys.executable, "-m", "helpers.train", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    for names in flags.GROUPS.values():
        assert all(f"--{name}" in done.stdout for name, old in names for name in (name, *old))
    assert "Model_type" in done.stdout and "(default: 64)" in done.stdout


@pytest.mark.parametrize(
    ("ranks", "arguments", "expected"),
    [
        (1, ["--learning_rate=0.5"], ""),
        (10, [], ""),
        (128, ["--scale_learning_rate=sqrt"], "=sqrt raises the learning rate to 0.0113 on 128 ranks"),
        (100, ["--scale_learning_rate=sqrt"], ""),
        (128, ["--scale_learning_rate=none"], ""),
        (128, [], "=linear raises the learning rate to 0.128 on 128 ranks"),
        (2, ["--learning_rate=0.02"], "=linear raises the learning rate to 0.04 on 2 ranks"),
    ],
)
def test_a_learning_rate_that_many_ranks_raise_too_high_is_warned_of(ranks, arguments, expected):
    flags.FLAGS(["helpers.train", "--learning_rate=0.001", *arguments])
    said = choices.rate_warning(flags.FLAGS, ranks)
    assert expected in said and bool(said) == bool(expected) and "\n" not in said
    assert ("--scale_learning_rate=sqrt or a lower" in said) == ("=linear" in said)
