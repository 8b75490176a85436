"""CIFAR-10's batches in the orders in which people pack images: read right, or refused."""

import pickle

from helpers import data

import numpy as np
import pytest

from tests.support.damage import TEST, TRAIN, images
from tests.unit.data.conftest import batches, same, write_batches


def smooth(count):
    """Images with one brighter square each, so that rows of pixels resemble the next row."""
    x = np.zeros((count, 32, 32, 3), np.uint8)
    for number, image in enumerate(x):
        image[..., 2] = 200
        image[: 5 + number % 20, :9] = [250, 10, number]
    return x, (np.arange(count) % 10).astype(np.int32)


PACKED = {  # from images [N, H, W, C]
    "rows": (lambda x: x.transpose(0, 3, 1, 2).reshape(len(x), -1), None),
    "channels first": (lambda x: x.transpose(0, 3, 1, 2), None),
    "channels last": (lambda x: x, None),
    "interleaved rows": (lambda x: x.reshape(len(x), -1), r"shape \(12, 3072\), whose channels are interleaved"),
    "interleaved rows, reshaped as if not": (
        lambda x: x.reshape(-1, 3, 32, 32),
        r"shape \(12, 3, 32, 32\), whose channels are interleaved",
    ),
    "rows, reshaped as if interleaved": (
        lambda x: x.transpose(0, 3, 1, 2).reshape(-1, 32, 32, 3),
        r"shape \(12, 32, 32, 3\), whose channels are one after the other",
    ),
    "floats": (lambda x: x / 255.0, r"type float64 and shape \(12, 32, 32, 3\)"),
    "columns": (lambda x: x.reshape(len(x), -1).T, r"type uint8 and shape \(3072, 12\)"),
    "one axis": (lambda x: x.reshape(-1), r"shape \(36864,\)"),
    "width before height": (lambda x: x.transpose(0, 2, 3, 1), r"shape \(12, 32, 3, 32\)"),
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("protocol", [2, 3, 5])
def test_batches_in_another_layout_are_never_scrambled(tmp_path, packed, protocol):
    pack, problem = PACKED[packed]
    arrays = (*smooth(TRAIN), *smooth(TEST))

    def write(x, y):
        # list(y) is what many scripts write: numbers of NumPy.
        batch = {"data": np.ascontiguousarray(pack(x)), "labels": list(y)}
        return pickle.dumps(batch if protocol == 3 else {key.encode(): value for key, value in batch.items()}, protocol)

    write_batches(tmp_path, batches(arrays, write))
    if problem is None:
        assert same(data.load("cifar10", tmp_path), arrays)
    else:
        with pytest.raises(data.DataError, match=f"but found data_batch_1 with data of .*{problem}"):
            data.load("cifar10", tmp_path)


def test_each_batch_has_as_many_labels_as_images(tmp_path):
    raw = batches(images("cifar10"))
    x, y, *_ = images("cifar10")
    raw["data_batch_1"] = pickle.dumps({b"data": PACKED["rows"][0](x[:12]), b"labels": y[:11].tolist()}, 3)
    raw["data_batch_2"] = pickle.dumps({b"data": PACKED["rows"][0](x[12:24]), b"labels": y[11:24].tolist()}, 3)
    write_batches(tmp_path, raw)
    with pytest.raises(data.DataError, match="data_batch_1 with 12 images and 11 labels"):
        data.load("cifar10", tmp_path)


def test_an_archive_of_keras_with_scrambled_images_is_refused(tmp_path):
    arrays = dict(zip(("x_train", "y_train", "x_test", "y_test"), (*smooth(TRAIN), *smooth(TEST)), strict=True))
    np.savez(tmp_path / "cifar10.npz", **arrays)
    assert same(data.load("cifar10", tmp_path), tuple(arrays.values()))
    arrays["x_test"] = PACKED["rows, reshaped as if interleaved"][0](arrays["x_test"])
    np.savez(tmp_path / "cifar10.npz", **arrays)
    with pytest.raises(data.DataError, match="x_test of shape .*, whose channels are one after the other"):
        data.load("cifar10", tmp_path)
