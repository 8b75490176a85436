"""Runs that the first edition saved are resumed.

tests/support/first_edition/ holds two runs that version 1.0.0 stopped at step 6 of 12, and the variables of their
models at step 6 and at step 12. Version 1.0.0 trained them with Adam at 1e-2, batches of 16, seed 3 and a KL warm-up
of 2 epochs.
"""

import shutil
from pathlib import Path

from helpers.elbo import NegativeElbo, warmup
from helpers.fit import fit
from helpers.layers import DenseFlipout
from helpers.runs import Run, restore_model

import numpy as np
import pytest
import tf_keras as keras

SAVED = Path(__file__).parents[1] / "support" / "first_edition"


def build(name):
    keras.utils.set_random_seed(1)
    first = DenseFlipout if name == "bnn" else keras.layers.Dense
    layers = [first(4, activation="relu", name="dense_1"), keras.layers.Dense(3, name="dense_2")]
    return keras.Sequential([keras.layers.InputLayer((6,)), *layers], name=name)


def resume(name, folder, seen=None):
    shutil.copytree(SAVED / name, folder)
    stream = np.random.RandomState(0)
    x, y = stream.rand(64, 6).astype(np.float32), stream.randint(0, 3, 64).astype(np.int32)
    model = build(name)
    history = fit(
        model, x, y, epochs=3, batch_size=16, optimizer=keras.optimizers.legacy.Adam(1e-2),
        loss=NegativeElbo(kl_weight=warmup(2.0)), seed=3,
        run=Run(folder=folder, resume=True, checkpoint_every=3, callback=seen, callback_every=1, progress=False),
    )  # fmt: skip
    return model, history


def saved(name, step):
    with np.load(SAVED / f"{name}-step-{step}.npz") as arrays:
        return list(arrays.values())


@pytest.mark.parametrize("name", ["bnn", "twin"])
def test_the_weights_of_its_checkpoint_are_restored(name):
    model = build(name)
    restore_model(model, SAVED / name)
    for found, expected in zip(model.variables, saved(name, 6), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_deterministic_run_ends_as_the_first_edition_ended_it(tmp_path):
    model, history = resume("twin", tmp_path / "run")
    for found, expected in zip(model.variables, saved("twin", 12), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)  # TensorFlow's versions differ
    assert [row["epoch"] for row in history.epochs] == [1, 2, 3] and history.epochs[-1]["step"] == 12
    assert history.resumed > 0 and history.epochs[-1]["kl_weight"] == 1.0


def test_a_bayesian_run_goes_on_from_its_step_with_its_means_and_scales(tmp_path):
    """The noise is another one since then, so a step moves each parameter by at most some learning rates."""
    steps = []
    resume("bnn", tmp_path / "run", lambda step, model, means: steps.append((step, model.get_weights())))
    assert [step for step, _ in steps] == list(range(7, 13))
    assert len(steps[0][1]) == len(saved("bnn", 6))
    for found, before in zip(steps[0][1], saved("bnn", 6), strict=True):
        assert 0 < np.abs(found - before).max() < 0.05
