"""The images that stand in for a data set that cannot be had."""

import functools

from helpers import data
from helpers.data import standin
from helpers.data.catalogue import DATASETS

import numpy as np
import pytest

# The first digits of the hashes of the content, which results and committed notebooks show.
HASHES = {"mnist": "ebf75f664d1e", "cifar10": "9f1fc0e7bb3d", "fashion_mnist": "12282c55e24a"}


@functools.cache
def made(name):
    stand_in = DATASETS[name].stand_in
    return standin.MAKERS[stand_in.name](*stand_in.counts)


@pytest.mark.parametrize("name", DATASETS)
def test_a_stand_in_has_the_shape_of_its_data_set_and_balanced_classes(name):
    x_train, y_train, x_test, y_test = made(name)
    assert x_train.shape == (4000, *DATASETS[name].shape) and x_test.shape == (1000, *DATASETS[name].shape)
    assert x_train.dtype == x_test.dtype == np.uint8 and y_train.dtype == y_test.dtype == np.int32
    assert np.bincount(y_train).tolist() == [400] * 10 and np.bincount(y_test).tolist() == [100] * 10
    train = {image.tobytes() for image in x_train}
    assert not any(image.tobytes() in train for image in x_test)


@pytest.mark.parametrize("name", DATASETS)
def test_the_images_are_those_of_the_committed_results(name):
    assert data.content_sha256(made(name)).startswith(HASHES[name])


def test_train_and_test_backgrounds_share_no_pixel(monkeypatch):
    # Photographs whose pixels tell their column: training images hold low values, test images high ones.
    columns = np.broadcast_to((np.arange(640) // 4).astype(np.uint8)[None, None, :, None], (2, 427, 640, 3))
    monkeypatch.setattr(standin, "_photographs", lambda: columns)
    blank = np.zeros((200, 28, 28, 1), np.uint8)
    train = standin._blend(blank, standin.TRAIN_COLUMNS, np.random.RandomState(0))
    test = standin._blend(blank, standin.TEST_COLUMNS, np.random.RandomState(0))
    assert train.max() < 480 / 4 <= test.min() and test.max() < 160 and train.min() < 10


@pytest.mark.parametrize("size", [20, 28, 32])
def test_resizing_keeps_a_gradient(size):
    image = np.broadcast_to(np.arange(28) * 9, (28, 28))
    resized = standin._resize(image, size)
    expected = np.interp((np.arange(size) + 0.5) * 28 / size - 0.5, np.arange(28), np.arange(28) * 9)
    assert np.abs(resized - expected).max() <= 1.1
