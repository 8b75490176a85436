"""Data files that are damaged at random: right results, or one line that says what is wrong."""

import pickle
from dataclasses import replace

from helpers import data
from helpers.data import readers
from helpers.data.catalogue import DATASETS, Content

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.damage import MORE, changes, damage, digest, examples, images, python2_batch
from tests.unit.data.conftest import (
    BATCHES,
    IDX_FILES,
    batches,
    npz,
    python3_batch,
    same,
    write_archive,
    write_batches,
    write_idx,
)

pytestmark = pytest.mark.timeout(900 * MORE)


class Hostile:
    """A pickle that would make a file if it were loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


# Each writes a small data set and returns the file that is damaged.


def as_npz(folder, arrays, save):
    (folder / "mnist.npz").write_bytes(npz("mnist", save))
    return folder / "mnist.npz"


def as_idx(folder, arrays, number):
    write_idx(folder, arrays)
    return folder / IDX_FILES[number]


def as_batches(folder, arrays, number, write):
    return write_batches(folder, batches(arrays, write)) / BATCHES[number]


def as_archive(folder, arrays):
    return write_archive(folder, {f"cifar-10-batches-py/{name}": raw for name, raw in batches(arrays).items()})


LAYOUTS = {
    "stored npz": ("mnist", lambda folder, arrays: as_npz(folder, arrays, np.savez)),
    "compressed npz": ("mnist", lambda folder, arrays: as_npz(folder, arrays, np.savez_compressed)),
    "idx images": ("fashion_mnist", lambda folder, arrays: as_idx(folder, arrays, 0)),
    "idx labels": ("fashion_mnist", lambda folder, arrays: as_idx(folder, arrays, 3)),
    "batches of Python 2": ("cifar10", lambda folder, arrays: as_batches(folder, arrays, 2, python2_batch)),
    "batches of Python 3": ("cifar10", lambda folder, arrays: as_batches(folder, arrays, 5, python3_batch)),
    "archive": ("cifar10", as_archive),
}
VERIFIED = [layout for layout in LAYOUTS if "idx" in layout or "npz" in layout]  # have checksums of their own


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_data_file_that_is_not_damaged_is_read(tmp_path, layout):
    """Without this, a test of damage could pass because the reader refuses the file as a whole."""
    name, write = LAYOUTS[layout]
    arrays = images(name)
    write(tmp_path, arrays)
    assert same(data.load(name, tmp_path, quiet=True), arrays)


@pytest.mark.parametrize("layout", ["batches of Python 2", "batches of Python 3"])
def test_the_reader_of_batches_gets_as_far_as_the_damage(tmp_path, layout):
    name, write = LAYOUTS[layout]
    arrays = images(name)
    path = write(tmp_path, arrays)
    raw = path.read_bytes()
    place = len(raw) // 2  # among the pixels
    path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
    loaded = data.load(name, tmp_path, quiet=True)
    difference = [
        np.count_nonzero(getattr(loaded, key) != array) for key, array in zip(readers.KEYS, arrays, strict=True)
    ]
    assert difference == ([1, 0, 0, 0] if path.name == "data_batch_3" else [0, 0, 1, 0])
    path.write_bytes(raw[:place])
    with pytest.raises(data.DataError, match="but found (UnpicklingError|EOFError)"):
        data.load(name, tmp_path, quiet=True)


@examples(100)
@given(layout=st.sampled_from(sorted(LAYOUTS)), change=changes(), hostile=st.integers(0, 9))
def test_a_damaged_data_file_is_refused_or_said_to_be_unverified(tmp_path_factory, layout, change, hostile):
    name, write = LAYOUTS[layout]
    arrays = images(name)
    folder = tmp_path_factory.mktemp("data")
    known = {data.content_sha256(arrays): Content(name, "official for this test", True)}
    path = write(folder, arrays)
    if hostile == 0:
        path.write_bytes(pickle.dumps({b"data": Hostile(str(folder / "ran")), b"labels": [0]}))
    elif not damage(path, change):
        return
    removed = not path.exists()
    left = digest(folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(DATASETS, name, replace(DATASETS[name], known=known))
            loaded = data.load(name, folder, quiet=True)
    except data.DataError as error:
        message = str(error)
        assert "\n" not in message
        if path.is_file():
            assert "cannot be used" in message and "Put a good copy in its place" in message
        assert path.name in message or path.parent.name in message or "the idx files" in message
    else:
        unchanged = same(loaded, arrays)
        assert unchanged == loaded.official
        if not unchanged and not removed:
            assert layout not in VERIFIED, "a checksum did not hold"
            assert loaded.name == f"{name}-unverified" and "not official" in loaded.provenance
    assert digest(folder) == left and not (folder / "ran").exists()
