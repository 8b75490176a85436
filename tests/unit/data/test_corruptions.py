"""Corruptions grow with severity, are what their names say, and leave their input alone."""

from helpers.data.corruptions import SEVERITIES, corrupt

import numpy as np
import pytest


def images(size, channels, n=40):
    """Smooth shapes in the middle of a darker ground, as digits and photographs have them."""
    rng = np.random.default_rng(0)
    line = np.linspace(-1, 1, size)
    waves = [
        np.cos(a * line[:, None] + b) * np.cos(c * line + d) for a, b, c, d in rng.uniform(2, 8, (n * channels, 4))
    ]
    shapes = np.stack(waves).reshape(n, channels, size, size).transpose(0, 2, 3, 1)
    window = np.exp(-2 * (line[:, None] ** 2 + 2 * line**2))[..., None]
    return np.rint(200 * window * (0.5 + 0.5 * shapes)).astype(np.uint8)


GREY, COLOUR = images(28, 1), images(32, 3)


@pytest.mark.parametrize("name", SEVERITIES)
@pytest.mark.parametrize("x", [GREY, COLOUR], ids=["28x28x1", "32x32x3"])
def test_severity_orders_the_distance(x, name):
    kept, distances = x.copy(), []
    for severity in range(1, 6):
        found = corrupt(x, name, severity, seed=3)
        assert found.dtype == np.uint8 and found.shape == x.shape
        np.testing.assert_array_equal(found, corrupt(x, name, severity, seed=3))
        np.testing.assert_array_equal(found[:7], corrupt(x[:7], name, severity, seed=3))
        distances.append(np.sqrt(np.mean((found.astype(float) - x) ** 2)))
    np.testing.assert_array_equal(x, kept)
    assert distances[0] > 0.1 and (np.diff(distances) > 0).all(), distances


def test_the_first_images_are_corrupted_alike_across_parts():
    x = np.resize(GREY, (1003, 28, 28, 1))
    for name in ("gaussian_noise", "shot_noise", "rotation"):
        np.testing.assert_array_equal(corrupt(x, name, 3)[:1001], corrupt(x[:1001], name, 3))
    assert corrupt(x[:0], "rotation", 3).shape == (0, 28, 28, 1)


@pytest.mark.parametrize("seed", range(3))
def test_noise_has_the_moments_of_theory(seed):
    grey = np.full((50, 28, 28, 1), 102, np.uint8)  # 0.4
    n, rounding = grey.size, 1 / 12 / 255**2
    gaussian = corrupt(grey, "gaussian_noise", 5, seed) / 255
    shot = corrupt(grey, "shot_noise", 4, seed) / 255  # a Poisson number of mean 0.4 * 75, over 75
    for found, variance in ((gaussian, 0.1**2 + rounding), (shot, 0.4 / 75 + rounding)):
        assert abs(found.mean() - 0.4) < 5 * np.sqrt(variance / n)
        assert abs(found.var() / variance - 1) < 6 * np.sqrt(2 / n)
    assert (corrupt(grey, "gaussian_noise", 5, seed) != corrupt(grey, "gaussian_noise", 5, seed + 1)).any()


def test_a_point_shows_what_blur_rotation_and_translation_do():
    point = np.zeros((6, 29, 29, 1), np.uint8)
    point[:, 14, 14] = 255
    line = np.arange(-14, 15)
    gaussian = np.exp(-0.5 * (line[:, None] ** 2 + line**2))  # severity 5 has a standard deviation of one pixel
    np.testing.assert_allclose(
        corrupt(point, "gaussian_blur", 5)[0, ..., 0], 255 * gaussian / gaussian.sum(), atol=0.51
    )
    disk = corrupt(point, "defocus_blur", 5)[0, ..., 0]  # a disk with a radius of two pixels
    assert disk.astype(int).sum() == pytest.approx(255, abs=13)
    assert (
        disk[14, 14] == pytest.approx(255 / (4 * np.pi), abs=1) and disk[14, 17] == 0 and disk[13, 15] == disk[14, 14]
    )
    off = np.zeros_like(point)
    off[:, 14, 24] = 255
    for found, before in zip(corrupt(np.repeat(off, 4, 0), "rotation", 5), np.repeat(off, 4, 0), strict=True):
        weights = found[..., 0] / found.sum()
        row, column = (weights.sum(1) * line).sum(), (weights.sum(0) * line).sum()
        assert np.degrees(np.arctan2(abs(row), column)) == pytest.approx(60, abs=1) and before[14, 24] == 255
    places = {tuple(np.argwhere(image[..., 0])[0] - 14) for image in corrupt(np.repeat(point, 9, 0), "translation", 3)}
    assert places == {(-3, -3), (-3, 3), (3, -3), (3, 3)}


def test_contrast_and_brightness_by_hand():
    x = np.array([[0, 100], [100, 200]], np.uint8).reshape(1, 2, 2, 1)
    assert corrupt(x, "contrast", 2).ravel().tolist() == [50, 100, 100, 150]
    assert corrupt(x, "brightness", 4).ravel().tolist() == [51, 151, 151, 251]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="no corruption 'fog'. Take one of gaussian_noise, "):
        corrupt(GREY, "fog", 1)
    with pytest.raises(ValueError, match="from 1 to 5, found 6"):
        corrupt(GREY, "jpeg", 6)
    with pytest.raises(TypeError, match="found float32 .*Corrupt before you scale"):
        corrupt(GREY.astype(np.float32), "jpeg", 1)
    with pytest.raises(TypeError, match=r"found uint8 \(28, 28, 1\)"):
        corrupt(GREY[0], "jpeg", 1)
