"""Loading: the content of a file says what the data set is, and what stands in for one says so."""

from helpers import ROOT, data
from helpers.data import dataset, layouts, readers
from helpers.data.catalogue import DATASETS, Content

import numpy as np
import pytest

from tests.support.damage import TEST, TRAIN, images
from tests.unit.data.conftest import npz, same


def test_content_and_not_packing_decides_what_is_official(tmp_path, change):
    arrays = images("mnist")
    sha256 = data.content_sha256(arrays)
    change("mnist", known={sha256: Content("mnist", "official MNIST", True)})
    x_train, y_train, x_test, y_test = arrays
    repacked = npz(
        x_train=x_train[..., 0],
        y_train=y_train[:, None].astype(np.int64),
        x_test=x_test[..., 0],
        y_test=y_test.astype(np.uint8),
    )
    for number, packed in enumerate([npz(save=np.savez), repacked]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "mnist.npz").write_bytes(packed)
        loaded = data.load("MNIST", folder)
        assert same(loaded, arrays) and loaded.official and loaded.name == "mnist"
        assert loaded.sha256 == sha256 and sha256[:12] in loaded.provenance
        assert loaded.x_train.shape == (TRAIN, 28, 28, 1) and loaded.input_shape == (28, 28, 1)
        assert loaded.y_train.dtype == np.int32 and loaded.y_test.shape == (TEST,)
        assert loaded.num_classes == 10 and str(loaded) == loaded.provenance == repr(loaded)


def test_a_copy_that_nobody_vouches_for_says_so(tmp_path, change):
    arrays = images("cifar10")
    (tmp_path / "cifar10.npz").write_bytes(npz("cifar10"))
    change("cifar10", labels_sha256="")
    loaded = data.load("CIFAR-10", tmp_path)
    assert (loaded.name, loaded.official) == ("cifar10-unverified", False)
    assert "not official" in loaded.provenance and "no known copy of it" in loaded.provenance
    change("cifar10", labels_sha256=data.content_sha256(arrays[1::2]))
    loaded = data.load("cifar10", tmp_path)
    assert "official labels of CIFAR-10 with pixels of no known copy" in loaded.source and not loaded.official


def test_another_data_set_under_this_name_is_refused(tmp_path, change):
    change("mnist", known={data.content_sha256(images("mnist")): Content("mnist", "official MNIST", True)})
    (tmp_path / "fashion_mnist.npz").write_bytes(npz())
    with pytest.raises(data.DataError, match="fashion_mnist.npz holds official MNIST, but Fashion-MNIST was expected"):
        data.load("fashion_mnist", tmp_path)


def test_an_unknown_name_is_an_error():
    with pytest.raises(data.DataError, match="'imagenet'. Expected one of: mnist, cifar10, fashion_mnist"):
        data.load("imagenet")


def test_messages_name_the_folder_without_its_path(tmp_path, monkeypatch):
    monkeypatch.setenv("BNN_DATA_DIR", str(tmp_path))
    assert readers.shown(tmp_path) == "$BNN_DATA_DIR"
    assert readers.shown(ROOT / "data") == "data/"
    (tmp_path / "mnist.npz").write_bytes(b"")
    with pytest.raises(data.DataError) as caught:
        data.load("mnist")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_data_set_that_was_downloaded_here_is_official(name, small_files):
    small_files.undo()
    if layouts.find(DATASETS[name], ROOT / "data") is None:
        pytest.skip(f"{name} is not in data/")
    assert data.load(name, ROOT / "data").official


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_stand_in_is_announced_once(default, capsys, name):
    record = DATASETS[name]
    loaded, again = data.load(name), data.load(name)
    assert loaded.name == record.stand_in.name and not loaded.official and loaded.sha256 == again.sha256
    assert loaded.label_names == record.stand_in.label_names
    assert f"stand-in for {record.title}" in loaded.provenance and "not official" in loaded.provenance
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert f"{record.title} is not in {default}, and $BNN_OFFLINE is set. It is replaced by {loaded}" in captured.err
    assert not default.exists()


@pytest.mark.parametrize("how", ["argument", "variable", "nowhere", "file"])
def test_a_place_that_was_named_is_never_replaced_by_a_stand_in(tmp_path, monkeypatch, how):
    place = tmp_path / "nowhere" if how == "nowhere" else tmp_path
    if how == "file":
        place = tmp_path / "notes.txt"
        place.write_text("no images")
    if how == "variable":
        monkeypatch.setenv("BNN_DATA_DIR", str(place))
    with pytest.raises(data.DataError) as caught:
        data.load("mnist", None if how == "variable" else place)
    message = str(caught.value)
    assert ("$BNN_DATA_DIR" if how == "variable" else str(place)) in message and "\n" not in message
    assert all(name in message for name in ("mnist.npz", "train-images-idx3-ubyte", "mnist_train.csv"))
    assert sorted(tmp_path.iterdir()) == ([place] if how == "file" else [])


def test_a_home_that_nobody_knows_is_named(monkeypatch):
    monkeypatch.setenv("BNN_DATA_DIR", "~nobody-of-this-name/data")
    with pytest.raises(data.DataError, match="the home folder of ~nobody-of-this-name is not known"):
        data.load("mnist")


def test_quiet_prints_nothing(default, monkeypatch, capsys):
    data.load("mnist", quiet=True)
    monkeypatch.setenv("BNN_QUIET", "1")
    data.load("mnist")
    assert capsys.readouterr() == ("", "") and not dataset._ANNOUNCED


def test_arrays_are_read_only(default):
    loaded = data.load("mnist", quiet=True)
    for array in (loaded.x_train, loaded.y_train, loaded.x_test, loaded.y_test):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_the_hash_depends_on_values_and_their_order_alone():
    bytes_of_three = np.array([0, 1, 255], np.uint8)
    assert data.content_sha256([bytes_of_three]) == data.content_sha256([bytes_of_three.astype(np.int64)])
    assert data.content_sha256([bytes_of_three]) != data.content_sha256([bytes_of_three[::-1]])
