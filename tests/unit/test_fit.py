"""The training loop on one rank: history, checkpoint, resume, killed at any moment."""

import os
import signal
import subprocess
import sys
import time

from helpers import ROOT, data, models
from helpers.elbo import NegativeElbo, categorical_nll, warmup
from helpers.files import read_csv, write
from helpers.fit import fit
from helpers.runs import History, Run

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

ELBO = NegativeElbo()


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist", quiet=True)


def train(digits, name="BNN_FC_flip", epochs=1, batch_size=50, optimizer=None, loss=ELBO, **circumstances):
    keras.utils.set_random_seed(1)
    model, run = models.build(name), Run(**circumstances)
    how = {"epochs": epochs, "batch_size": batch_size, "optimizer": optimizer, "loss": loss}
    return model, fit(model, digits.x_train[:1000], digits.y_train[:1000], seed=5, run=run, **how)


def weights(model):
    return np.concatenate([np.ravel(v) for v in model.get_weights()])


def test_training_learns_and_tells(digits, tmp_path):
    _, history = train(digits, "CNN_FC", epochs=8, folder=tmp_path)
    assert history.epochs[-1]["accuracy"] > 0.85 > history.epochs[0]["accuracy"]
    assert [row["step"] for row in history.epochs] == list(range(20, 161, 20))
    assert sum(row["steps"] for row in history.steps) == 160
    assert read_csv(tmp_path / "history.csv") == history.epochs
    assert read_csv(tmp_path / "steps.csv") == history.steps


def test_the_same_seed_trains_the_same_weights(digits):
    first, second = (weights(train(digits, epochs=1)[0]) for _ in range(2))
    assert np.array_equal(first, second)
    keras.utils.set_random_seed(1)
    model = models.build("BNN_FC_flip")
    fit(model, digits.x_train[:1000], digits.y_train[:1000], seed=6, batch_size=50)
    assert not np.array_equal(first, weights(model))


@pytest.mark.parametrize("name", ["BNN_FC_flip", "BNN_FC_nonflip", "CNN_FC"])
def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(digits, tmp_path, name):
    options = {"epochs": 2, "checkpoint_every": 7, "loss": NegativeElbo(kl_weight=warmup(1.5))}
    whole, history = train(digits, name, folder=tmp_path / "whole", **options)
    train(digits, name, folder=tmp_path / "parts", max_steps=28, **options)
    resumed, again = train(digits, name, folder=tmp_path / "parts", resume=True, **options)
    assert np.array_equal(weights(whole), weights(resumed))
    untimed = [[{k: v for k, v in row.items() if k != "seconds"} for row in h.epochs] for h in (history, again)]
    assert untimed[0] == untimed[1]
    assert again.resumed == 5 and len(again.steps) == len(history.steps)


def test_a_long_run_is_noted_in_few_rows():
    history = History([], [])
    for epoch in range(200):
        begun = len(history.steps)
        for call in range(100):
            history.note(1000 * epoch + 10 * call + 10, 10, 0.5, begun)
    steps = np.cumsum([row["steps"] for row in history.steps])
    assert steps.tolist() == [row["step"] for row in history.steps]
    assert sum(row["seconds"] for row in history.steps) == 200 * 100 * 0.5
    assert set(range(1000, 200_001, 1000)) <= set(steps), "epochs share no row"
    assert len(history.steps) < 6000 and max(row["steps"] for row in history.steps) <= 210
    resumed = history._replace(resumed=len(history.steps))
    begun = len(resumed.steps)
    for call in range(1, 4):
        resumed.note(200_000 + 10 * call, 10, 9.0 / call, begun)
    rows = [(row["steps"], row["seconds"]) for row in resumed.steps[begun:]]
    assert rows == [(10, 9.0), (20, 7.5)], "the call that compiles stays alone"


def test_callbacks_come_at_their_steps_with_the_means_so_far(digits):
    seen = []
    train(digits, epochs=1, callback=lambda step, model, means: seen.append((step, means)), callback_every=8)
    assert [step for step, _ in seen] == [0, 8, 16, 20]
    assert seen[0][1] == {} and seen[1][1]["nll"] > seen[3][1]["nll"] > 0


def test_another_run_is_neither_overwritten_nor_mixed(digits, tmp_path):
    train(digits, folder=tmp_path)
    with pytest.raises(FileExistsError, match="Resume it"):
        train(digits, folder=tmp_path)
    with pytest.raises(ValueError, match="batch_size = 50, this one has 25"):
        train(digits, folder=tmp_path, batch_size=25, resume=True)
    with pytest.raises(ValueError, match="model"):
        train(digits, "CNN_FC", folder=tmp_path, resume=True)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(digits, tmp_path, capfd):
    _, whole = train(digits, folder=tmp_path, epochs=2)
    for name in ("step-40", "step-20"):
        damaged = next((tmp_path / "checkpoints").glob(f"{name}.data*"))
        damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
        if name == "step-40":
            _, again = train(digits, folder=tmp_path, resume=True, epochs=2, max_steps=0)
            assert again.steps[-1]["step"] == 20 and again.epochs == whole.epochs[:1]
            assert "step-40 cannot be read" in capfd.readouterr().err
    with pytest.raises(ValueError, match="no checkpoint that can be read"):
        train(digits, folder=tmp_path, resume=True, epochs=3)


def test_a_checkpoint_of_the_weights_alone_is_not_resumed(digits, tmp_path):
    model, _ = train(digits, folder=tmp_path, epochs=1)
    for part in (tmp_path / "checkpoints").glob("step-20*"):
        part.unlink()
    tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoints" / "step-20"))
    with pytest.raises(ValueError, match="no checkpoint that can be read"):
        train(digits, folder=tmp_path, resume=True, epochs=2)


def test_the_loop_is_traced_once(digits):
    traces = []

    def counted(labels, logits):
        traces.append(1)
        return categorical_nll(labels, logits)

    train(digits, loss=NegativeElbo(counted), epochs=1)
    once = len(traces)
    train(digits, loss=NegativeElbo(counted), epochs=3, steps_per_call=7)
    assert len(traces) == 2 * once


@pytest.mark.parametrize("optimizer", ["adam", keras.optimizers.legacy.Adam])
def test_what_is_no_optimiser_is_told(digits, optimizer):
    with pytest.raises(TypeError, match=r"expected an optimiser such as keras.optimizers.legacy.Adam\(1e-3\)"):
        train(digits, optimizer=optimizer)


def test_another_kind_of_optimiser_trains_and_is_resumed(digits, tmp_path):
    """Those that decay weights are not stepped before the first gradient."""
    kinds = [keras.optimizers.AdamW, lambda: keras.optimizers.legacy.SGD(0.01, momentum=0.9)]
    for number, make in enumerate(kinds):
        whole, _ = train(digits, "CNN_FC", optimizer=make(), epochs=2)
        train(digits, "CNN_FC", optimizer=make(), epochs=1, folder=tmp_path / str(number))
        resumed, _ = train(digits, "CNN_FC", optimizer=make(), epochs=2, folder=tmp_path / str(number), resume=True)
        np.testing.assert_array_equal(weights(whole), weights(resumed))


def test_too_few_examples_are_an_error_not_an_empty_run(digits):
    with pytest.raises(data.DataError, match="1000|1,000"):
        train(digits, batch_size=2000)


def test_a_loss_that_is_not_finite_stops_the_run_before_its_checkpoint(digits, tmp_path):
    with pytest.raises(FloatingPointError, match="learning rate"):
        train(digits, "CNN_FC", folder=tmp_path, optimizer=keras.optimizers.legacy.Adam(1e38), epochs=2)
    assert not list((tmp_path / "checkpoints").glob("*.index"))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "file"
    write(target, "old")
    with pytest.raises(TypeError):
        write(target, 3)
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["file"]


KILLED = """
import sys, tf_keras as keras
from helpers import data, models
from helpers.fit import fit
from helpers.runs import Run
digits = data.load("mnist", quiet=True)
keras.utils.set_random_seed(1)
model = models.build("BNN_FC_flip")
fit(model, digits.x_train[:1000], digits.y_train[:1000], batch_size=50, seed=5, epochs=500,
    run=Run(checkpoint_every=1, folder=sys.argv[1], resume=True))
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_checkpoint_to_go_on_from(digits, tmp_path):
    """Checkpoints are written without pause, so that most kills fall into the writing of one."""
    reached = 0
    for delay in (0.0, 0.13, 0.31):
        run = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
        deadline = time.monotonic() + 60
        # Of two new checkpoints the first is whole.
        saved = (tmp_path / "checkpoints").glob
        while max((int(path.stem.rpartition("-")[2]) for path in saved("step-*.index")), default=0) < reached + 2:
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(delay)
        run.send_signal(signal.SIGKILL)
        run.wait(10)
        _, history = train(digits, folder=tmp_path, resume=True, epochs=500, max_steps=reached)
        assert history.steps[-1]["step"] > reached
        reached = history.steps[-1]["step"]
