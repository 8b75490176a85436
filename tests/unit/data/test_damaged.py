"""Data files and run folders, damaged at random: right results, or one line that says what is wrong."""

import contextlib
import gzip
import io
import os
import pickle
import shutil
import tarfile

from helpers import data, layers
from helpers.checkpoints import Checkpoints, History, restore_model
from helpers.data import readers
from helpers.distributed import ALONE
from helpers.files import read_csv
from helpers.fit import State

import numpy as np
import pytest
import tf_keras as keras
from hypothesis import given
from hypothesis import strategies as st

from tests.support.damage import MORE, digest, examples, hurt, images, python2_batch, small_data_sets, wound

pytestmark = pytest.mark.timeout(900 * MORE)


@pytest.fixture(scope="module", autouse=True)
def small():
    patch = small_data_sets()
    yield patch
    patch.undo()


class Hostile:
    """A pickle that would make a file, were it loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


# Data files


def as_npz(folder, arrays, save):
    save(folder / "mnist.npz", **dict(zip(readers.KEYS, arrays, strict=True)))
    return folder / "mnist.npz"


def as_idx(folder, arrays, number):
    for name, array in zip(readers.IDX_FILES, arrays, strict=True):
        array = array.reshape(array.shape[:3]).astype(np.uint8)
        header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
        with gzip.open(folder / name, "wb") as file:
            file.write(header + array.tobytes())
    return folder / readers.IDX_FILES[number]


def protocol3_batch(pixels, labels):
    """A batch as Python 3 writes it; NumPy arrays of protocol 2 would ask for a decoder, which the reader refuses."""
    rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    return pickle.dumps({b"data": rows, b"labels": labels.tolist()}, protocol=3)


def batches(arrays, write):
    """CIFAR-10's batches: {name: bytes}."""
    x, y, x_test, y_test = arrays
    parts = [*zip(np.split(x, 5), np.split(y, 5), strict=True), (x_test, y_test)]
    return {name: write(*part) for name, part in zip(readers.BATCHES, parts, strict=True)}


def as_batches(folder, arrays, number, write):
    folder = folder / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in batches(arrays, write).items():
        (folder / name).write_bytes(content)
    return folder / list(readers.BATCHES)[number]


def as_archive(folder, arrays):
    path = folder / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in batches(arrays, python2_batch).items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


LAYOUTS = {
    "stored npz": ("mnist", lambda folder, arrays: as_npz(folder, arrays, np.savez)),
    "compressed npz": ("mnist", lambda folder, arrays: as_npz(folder, arrays, np.savez_compressed)),
    "idx images": ("fashion_mnist", lambda folder, arrays: as_idx(folder, arrays, 0)),
    "idx labels": ("fashion_mnist", lambda folder, arrays: as_idx(folder, arrays, 3)),
    "batches of Python 2": ("cifar10", lambda folder, arrays: as_batches(folder, arrays, 2, python2_batch)),
    "batches of Python 3": ("cifar10", lambda folder, arrays: as_batches(folder, arrays, 5, protocol3_batch)),
    "archive": ("cifar10", as_archive),
}
VERIFIED = [layout for layout in LAYOUTS if "idx" in layout or "npz" in layout]  # have checksums of their own


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_data_file_that_is_not_damaged_is_read(small, tmp_path, layout):
    """Without this, a test of damage could pass because the reader refuses the file as a whole."""
    name, write = LAYOUTS[layout]
    arrays = images(name)
    write(tmp_path, arrays)
    found = data.load(name, tmp_path, quiet=True)
    for array, key in zip(arrays, readers.KEYS, strict=True):
        np.testing.assert_array_equal(getattr(found, key), array)


@examples(100)
@given(layout=st.sampled_from(sorted(LAYOUTS)), change=wound(), hostile=st.integers(0, 9))
def test_a_damaged_data_file_is_refused_or_told(small, tmp_path_factory, layout, change, hostile):
    name, write = LAYOUTS[layout]
    arrays = images(name)
    folder = tmp_path_factory.mktemp("data")
    small.setitem(data.KNOWN, data.content_sha256(arrays), (name, name, "official for this test", True))
    path = write(folder, arrays)
    if hostile == 0:
        path.write_bytes(pickle.dumps({b"data": Hostile(str(folder / "ran")), b"labels": [0]}))
    elif not hurt(path, change):
        return
    removed = not path.exists()
    left = digest(folder)
    try:
        found = data.load(name, folder, quiet=True)
    except data.DataError as error:
        message = str(error)
        assert "\n" not in message and "cannot be used" in message and "put a good copy in its place" in message
        assert path.name in message or path.parent.name in message or "the idx files" in message
    else:
        same = all(np.array_equal(array, getattr(found, key)) for key, array in zip(readers.KEYS, arrays, strict=True))
        assert same == found.official
        if not same and not removed:
            assert layout not in VERIFIED, "a checksum did not hold"
            assert found.name == f"{name}-unverified" and "not official" in found.provenance
    assert digest(folder) == left and not (folder / "ran").exists()


# Run folders


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
@given(damage=st.dictionaries(st.sampled_from(PARTS), wound(), min_size=1, max_size=3))
def test_a_damaged_run_goes_on_as_it_was_or_not_at_all(run, tmp_path_factory, damage):
    whole, model, state, truth = run
    folder = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(whole, folder)
    for part, change in damage.items():
        hurt(folder / part, change)
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


def assert_equal(found, *allowed):
    assert any(all(np.array_equal(a, b) for a, b in zip(found, values, strict=True)) for values in allowed)


def assert_told(error, folder):
    assert str(folder) in str(error) and "\n" not in str(error)
