"""Run folders that are damaged at random: the run goes on as it was, or one line says what is wrong."""

import contextlib
import io
import os
import shutil

from helpers import layers
from helpers.distributed import ALONE
from helpers.files import read_csv
from helpers.fit import State
from helpers.runs import Checkpoints, History, Run, restore_model

import numpy as np
import pytest
import tf_keras as keras
from hypothesis import given
from hypothesis import strategies as st

from tests.support.damage import MORE, changes, damage, digest, examples

pytestmark = pytest.mark.timeout(900 * MORE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of five steps with checkpoints at 2, 4 and 5, of which the last two are kept; and what they hold."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = keras.Sequential([keras.layers.InputLayer((3,)), layers.DenseFlipout(2)], name="small")
    state = State(model, keras.optimizers.legacy.Adam(1e-3))
    checkpoints, history = Checkpoints(folder, ALONE, state.checkpoint, {"seed": 7, "kl": 0.5}), History([], [])
    checkpoints.open(False)
    truth = {}
    for step in (2, 4, 5):
        for number, variable in enumerate(state.variables()):
            variable.assign(np.full(variable.shape, 100 * step + number, variable.dtype.as_numpy_dtype))
        history.steps.append({"step": step, "steps": 1, "seconds": step / 7})
        history.epochs.append({"epoch": step, "step": step, "loss": 1 / step})
        checkpoints.save(step, history)
        weights = [weight.copy() for weight in model.get_weights()]
        truth[step] = [v.numpy() for v in state.variables()], [*history.steps], [*history.epochs], weights
    checkpoints.__exit__()
    assert {path.name for path in (folder / "checkpoints").glob("*.index")} == {"step-4.index", "step-5.index"}
    return folder, model, state, truth


PARTS = ["settings.json", "history.csv", "steps.csv", "checkpoints/checkpoint"]
PARTS += [f"checkpoints/step-{step}.{kind}" for step in (4, 5) for kind in ("index", "data-00000-of-00001")]


@examples(100)
@given(damages=st.dictionaries(st.sampled_from(PARTS), changes(), min_size=1, max_size=3))
def test_a_damaged_run_goes_on_as_it_was_or_not_at_all(run, tmp_path_factory, damages):
    whole, model, state, truth = run
    folder = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(whole, folder)
    for part, change in damages.items():
        damage(folder / part, change)
    left = digest(folder)

    def open_again(resume):
        for variable in state.variables():
            variable.assign(np.zeros(variable.shape, variable.dtype.as_numpy_dtype))
        with Checkpoints(folder, ALONE, state.checkpoint, {"seed": 7, "kl": 0.5}) as checkpoints:
            checkpoints.open(resume)
        return checkpoints.history

    with pytest.raises(FileExistsError, match="holds a run already"):
        open_again(resume=False)
    try:
        restore_model(model, folder)
        assert_equal(model.get_weights(), *(weights for *_, weights in truth.values()))
    except ValueError as error:
        assert_told(error, folder)
    for name in ("history.csv", "steps.csv"):
        with contextlib.suppress(ValueError, OSError):
            read_csv(folder / name)
    assert digest(folder) == left
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            history = open_again(resume=True)
    except (ValueError, OSError) as error:
        assert_told(error, folder)
        assert digest(folder) == left
        return
    step = history.steps[-1]["step"]
    assert step in (4, 5)
    values, steps, epochs, _ = truth[step]
    assert_equal([variable.numpy() for variable in state.variables()], values)
    assert (history.steps, history.epochs) == (steps, epochs)
    if "step-5.index" in os.listdir(folder / "checkpoints"):
        assert step == 5 or "step-5 cannot be read" in said.getvalue()


def test_settings_are_compared_as_the_file_holds_them(tmp_path):
    def open_with(settings, resume):
        model = keras.Sequential([keras.layers.InputLayer((3,)), keras.layers.Dense(2)])
        state = State(model, keras.optimizers.legacy.Adam(1e-3))
        with Checkpoints(tmp_path / "run", ALONE, state.checkpoint, settings) as checkpoints:
            checkpoints.open(resume)
            checkpoints.save(1, History([], []))

    open_with({"sizes": (1, 2)}, False)
    open_with({"sizes": (1, 2)}, True)
    with pytest.raises(ValueError, match="sizes = "):
        open_with({"sizes": (1, 3)}, True)
    with pytest.raises(ValueError, match="plain numbers, texts and lists"):
        open_with({"sizes": np.float32(2)}, True)


@pytest.mark.parametrize("name", ["checkpoint_every", "callback_every", "steps_per_call"])
def test_a_run_refuses_numbers_below_one(name):
    with pytest.raises(ValueError, match=f"{name} must be 1 or more, and is 0"):
        Run(**{name: 0})


def assert_equal(found, *allowed):
    assert any(all(np.array_equal(a, b) for a, b in zip(found, values, strict=True)) for values in allowed)


def assert_told(error, folder):
    assert str(folder) in str(error) and "\n" not in str(error)
