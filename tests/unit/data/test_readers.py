"""The files in which data sets are distributed, good and bad."""

import hashlib
import io
import os
import pickle
from dataclasses import replace

from helpers import data
from helpers.data.catalogue import DATASETS
from helpers.data.readers import KEYS

import numpy as np
import pytest

from tests.support.damage import TEST, TRAIN, images
from tests.unit.data.conftest import IDX_FILES, batches, npz, same, write_archive, write_batches, write_idx


def npy():
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


LABELS = np.arange(TEST) % 10
UNUSABLE = {
    "empty": (b"", "not a NumPy archive"),
    "web page": (b"<html>Sign in</html>", "not a NumPy archive"),
    "single array": (npy(), "not a NumPy archive"),
    "truncated": (lambda: npz()[:-2000], "BadZipFile"),
    "damaged": (lambda: npz()[:900] + bytes(200) + npz()[1100:], "Error|BadZipFile"),
    "missing keys": (lambda: npz(x_test=None, y_test=None), "no x_test, y_test, only x_train, y_train"),
    "wrong shape": (lambda: npz(x_train=np.zeros((TRAIN, 9, 9), np.uint8)), r"x_train of type uint8 and shape \(60, 9"),
    "wrong count": (lambda: npz(y_train=np.zeros(59, np.uint8)), r"y_train of type uint8 and shape \(59,\)"),
    "normalised": (lambda: npz(x_test=np.zeros((TEST, 28, 28), np.float32)), "x_test of type float32"),
    "label out of range": (lambda: npz(y_test=LABELS + 1), "y_test with labels from 1 to 10"),
    "negative label": (lambda: npz(y_test=LABELS - 1), "y_test with labels from -1 to 8"),
    "pickled": (lambda: npz(y_test=np.array([None] * TEST, dtype=object)), "ValueError"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_file_is_named_explained_and_left_alone(tmp_path, kind):
    content, found = UNUSABLE[kind]
    content = content if isinstance(content, bytes) else content()
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(data.DataError, match=f"but found .*({found})") as caught:
        data.load("mnist", tmp_path)
    message = str(caught.value)
    assert message.startswith("mnist.npz in ") and "Put a good copy in its place" in message
    assert "expected a NumPy archive of x_train, y_train, x_test, y_test with 60 + 20 images" in message
    assert (tmp_path / "mnist.npz").read_bytes() == content


# CIFAR-10's batches


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_batches_are_official_by_their_checksums(tmp_path, change, kind):
    arrays = images("cifar10")
    raw = batches(arrays)
    if kind == "folder":
        write_batches(tmp_path, raw)
    else:
        # A member that leads out of the folder is not followed: nothing is unpacked at all.
        members = {f"cifar-10-batches-py/{name}": value for name, value in raw.items()}
        write_archive(tmp_path, {"../escaped": b"x", **members})
    loaded = data.load("cifar10", tmp_path)
    assert same(loaded, arrays) and loaded.name == "cifar10-unverified" and not loaded.official
    published = {name: hashlib.md5(content).hexdigest() for name, content in raw.items()}
    change("cifar10", files=tuple(replace(f, parts=published) for f in DATASETS["cifar10"].files if f.parts))
    loaded = data.load("cifar10", tmp_path)
    assert loaded.official and loaded.name == "cifar10" and loaded.label_names[6] == "frog"
    assert loaded.x_train.flags.c_contiguous
    assert len(list(tmp_path.iterdir())) == 1 and not (tmp_path.parent / "escaped").exists()


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.mkdir, eval, np.fromfile, getattr])
def test_a_pickle_that_could_run_code_is_refused(tmp_path, function):
    marker = tmp_path / "ran"
    call = f"__import__('os').mkdir({str(marker)!r})" if function is eval else str(marker)
    hostile = pickle.dumps({b"data": Hostile(function, call), b"labels": [0]})
    write_batches(tmp_path, {**batches(images("cifar10")), "data_batch_3": hostile})
    with pytest.raises(data.DataError, match="a pickle that asks for .*, which no data set needs"):
        data.load("cifar10", tmp_path)
    assert not marker.exists()


def test_batches_that_are_missing_or_cut_off_are_refused(tmp_path):
    raw = batches(images("cifar10"))
    write_batches(tmp_path / "missing", {name: raw[name] for name in raw if name != "data_batch_4"})
    with pytest.raises(data.DataError, match="cifar-10-batches-py in .* no data_batch_4, only data_batch_1"):
        data.load("cifar10", tmp_path / "missing")
    write_batches(tmp_path / "cut", {**raw, "test_batch": raw["test_batch"][:5000]})
    with pytest.raises(data.DataError, match="but found (UnpicklingError|EOFError)"):
        data.load("cifar10", tmp_path / "cut")
    (tmp_path / "archive").mkdir()
    archive = write_archive(tmp_path / "archive", raw)
    archive.write_bytes(archive.read_bytes()[:-3000])
    with pytest.raises(data.DataError, match="cifar-10-python.tar.gz in .* but found .*Error"):
        data.load("cifar10", tmp_path / "archive")


def test_a_batch_too_large_to_be_genuine_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.data.cifar10.LARGEST_BATCH", 10_000)
    raw = batches(images("cifar10"))
    write_archive(tmp_path, raw)
    with pytest.raises(data.DataError, match=f"but found data_batch_1 of {len(raw['data_batch_1']):,} bytes"):
        data.load("cifar10", tmp_path)


def test_the_lossless_part_of_cifar10_serves_where_there_is_no_more(tmp_path):
    x, y, x_test, y_test = images("cifar10")
    part = (np.resize(x, (4000, 32, 32, 3)), np.resize(y, 4000), np.resize(x_test, (1000, 32, 32, 3)))
    part = (*part, np.resize(y_test, 1000))
    (tmp_path / "cifar10_lossless_5k.npz").write_bytes(npz("cifar10", np.savez, **dict(zip(KEYS, part, strict=True))))
    assert same(data.load("cifar10", tmp_path), part)
    (tmp_path / "cifar10.npz").write_bytes(npz("cifar10"))
    assert len(data.load("cifar10", tmp_path).x_train) == TRAIN


# Fashion-MNIST's idx files


@pytest.mark.parametrize("place", ["", "fashion-mnist", "system"])
def test_idx_files_are_read_from_each_place(tmp_path, default, change, place):
    folder = tmp_path / place if place == "system" else default / place
    arrays = images("fashion_mnist")
    write_idx(folder, arrays)
    files = DATASETS["fashion_mnist"].files
    change("fashion_mnist", files=(*files, replace(files[1], path=str(tmp_path / "system"), title="the package")))
    loaded = data.load("fashion_mnist")
    assert same(loaded, arrays) and loaded.label_names[9] == "Ankle boot"
    labels = folder / IDX_FILES[1]
    labels.write_bytes(labels.read_bytes()[:20])
    subject = {"": "the idx files in .*", "fashion-mnist": "fashion-mnist in .*", "system": "the package"}[place]
    with pytest.raises(data.DataError, match=f"^{subject} cannot be used: .* but found EOFError"):
        data.load("fashion_mnist")
    labels.unlink()
    assert data.load("fashion_mnist", quiet=True).name == "photograph-patches"
    if place == "system":
        write_idx(folder, arrays)
        with pytest.raises(data.DataError, match="Fashion-MNIST is not in"):  # it lies outside the folder that is named
            data.load("fashion_mnist", tmp_path / "other")


def test_idx_files_of_another_layout_are_refused(tmp_path):
    x, y, x_test, y_test = images("fashion_mnist")
    write_idx(tmp_path, (x[:, ::2, ::2], y, x_test[:, ::2, ::2], y_test))
    with pytest.raises(data.DataError, match=r"x_train of type uint8 and shape \(60, 14, 14\)"):
        data.load("fashion_mnist", tmp_path)
