"""The training command on real ranks: what it writes, and what it says once."""

import json
import subprocess
import sys
import time

from helpers import ROOT

import pytest

from tests.support.ranks import mpiexec


@pytest.fixture(autouse=True)
def horovod():
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")


def test_horovodrun_trains(tmp_path):
    command = ["-m", "helpers.train", "--model=BNN_FC_flip", f"--output={tmp_path}", "--epochs=1"]
    done = subprocess.run(
        ["horovodrun", "-n", "2", "-H", "localhost:2", sys.executable, *command, "--num_monte_carlo=3"],
        cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "BNN_FC_flip" / "summary.json").read_text())
    assert found["world_size"] == 2 and found["training"]["step"] == 31 and found["draws"] == 3


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--modle=CNN_FC", "modle"),  # codespell:ignore
        ("--batch_size=3000", "3,?000"),
        ("--data_dir=x", "x"),
        ("--map_data_in=/no/such", "/no/such"),
    ],
)
def test_what_cannot_be_stops_every_rank_with_one_message(argument, message, tmp_path):
    began = time.monotonic()
    done = mpiexec(2, sys.executable, "-m", "helpers.train", f"--output={tmp_path}", argument)
    assert done.returncode != 0 and time.monotonic() - began < 120
    told = [line for line in done.stderr.splitlines() if line.startswith("helpers.train:")]
    assert len(told) == 1 and message.replace(",?", "") in told[0].replace(",", "")


def test_rank_0_alone_warns_of_a_learning_rate(tmp_path):
    short = ["--dataset=mnist", "--model=CNN_FC", "--iterations=2", "--num_monte_carlo=1", "--learning_rate=0.006"]
    done = mpiexec(2, sys.executable, "-m", "helpers.train", *short, f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("raises the learning rate to 0.012 on 2 ranks") == 1


def test_ranks_that_share_the_images_train_as_ranks_with_copies_do(tmp_path):
    (tmp_path / "place").mkdir()
    short = ["--dataset=mnist", "--model=CNN_FC", "--epochs=1", "--num_monte_carlo=1"]
    for name, words in {"copies": [], "shared": [f"--map_data_in={tmp_path / 'place'}"]}.items():
        done = mpiexec(2, sys.executable, "-m", "helpers.train", *short, *words, f"--output={tmp_path / name}")
        assert done.returncode == 0, done.stderr
    copies, shared = (
        json.loads((tmp_path / name / "CNN_FC" / "summary.json").read_text()) for name in ("copies", "shared")
    )
    assert copies["test"] == shared["test"] and copies["training"]["nll"] == shared["training"]["nll"]
    assert not list((tmp_path / "place").iterdir())
