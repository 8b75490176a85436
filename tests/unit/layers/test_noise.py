"""The noise: normal numbers, signs, and streams that differ by seed, rank and layer."""

import math

from helpers.layers import DenseFlipout, DenseReparameterization, noise, seed_noise

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
import tf_keras as keras

from tests.support.layers import ALL, GROUPED, layer_for


def box_muller(radii, angles):
    """The normal numbers of these radii and angles, as uint16: float64 [2, n], of cosines and of sines."""
    words = np.concatenate([radii, angles]).view(np.int32)
    return noise.box_muller(tf.constant(words)).numpy().astype(np.float64).reshape(2, -1)


def test_all_radii_and_angles_together_have_the_moments_of_the_normal_distribution():
    """Radius and angle are independent, so the moments over all 2^32 pairs are products of moments over 2^16.

    In exact arithmetic the mean of radius^2 / 2 = -log(u) over the n midpoints u = (j + 1/2) / n is
    log(n) - (log Gamma(n + 1/2) - log Gamma(1/2)) / n, and the means of cosine and sine are 0 and of their squares 1/2.
    """
    n = 2**16
    every, one = np.arange(n, dtype=np.uint16), np.full(n, 2**15, np.uint16)
    by_angle, by_radius = box_muller(one, every), box_muller(every, one)
    # The smallest radius belongs to the largest u. Both numbers of a pair are as near to zero as they get there.
    smallest = box_muller(np.full(n, n - 1, np.uint16), every)
    for numbers in (by_angle, by_radius, smallest):
        assert np.all(np.isfinite(numbers)) and np.all(numbers != 0.0)
    radius = np.hypot(*by_radius)
    directions = by_angle / np.hypot(*box_muller(one, one))
    assert len(np.unique(radius)) > 0.99 * n and radius.max() == pytest.approx(np.sqrt(2 * np.log(2 * n)), rel=1e-6)
    assert len(np.unique(by_angle[0] + 1j * by_angle[1])) == n
    # Float32 rounds each number by up to 6e-8 of its size, in both directions.
    assert np.abs(directions.mean(axis=1)).max() < 1e-7
    np.testing.assert_allclose((directions**2).mean(axis=1), 0.5, atol=1e-7)
    np.testing.assert_allclose(np.prod(directions, axis=0).mean(), 0.0, atol=1e-7)
    variance = np.mean(radius**2) * np.mean(directions**2)
    exact = math.log(n) - (scipy.special.gammaln(n + 0.5) - scipy.special.gammaln(0.5)) / n
    assert variance == pytest.approx(exact, abs=1e-7)
    assert 5e-6 < 1.0 - variance < 6e-6


def test_normals_and_signs_are_what_they_are_called():
    generator = tf.random.Generator.from_seed(11)
    normals = noise.normal(generator, (401, 501)).numpy().ravel()
    assert scipy.stats.kstest(normals, "norm").pvalue > 1e-3
    error = 1 / np.sqrt(len(normals))
    for power, (moment, spread) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], start=1):
        assert abs(np.mean(normals**power) - moment) < 4.5 * np.sqrt(spread) * error
    half = len(normals) // 2  # the two numbers of a pair lie half the array apart
    assert abs(np.mean(normals[:half] * normals[-half:])) < 4.5 / np.sqrt(half)
    assert abs(np.mean(normals[:half] ** 2 * normals[-half:] ** 2) - 1) < 4.5 * np.sqrt(8 / half)

    signs = noise.signs(generator, 301, 67).numpy()
    assert signs.shape == (301, 67) and set(np.unique(signs)) == {-1.0, 1.0}
    assert np.abs(signs.mean(axis=0)).max() < 4.5 / np.sqrt(301)
    correlations = np.concatenate([np.ravel(a @ a.T / a.shape[1] - np.eye(len(a))) * np.sqrt(a.shape[1])
                                   for a in (signs, signs.T)])  # fmt: skip
    assert np.abs(correlations).max() < 5.5


@pytest.mark.parametrize("cls", ALL)
def test_noise_is_fresh_at_every_call_and_repeats_from_a_seed(cls):
    case = GROUPED[0] if cls.__name__.startswith("Conv") else None
    (layer, x), (same, _), (other, _) = (layer_for(cls, case, seed=seed) for seed in (1, 1, 2))
    x = tf.constant(x)
    run = tf.function(layer)
    first, second, third = layer(x), run(x), run(x)
    assert np.max(np.abs(first - second)) > 0.01 and np.max(np.abs(second - third)) > 0.01
    for call in (first, second, third):
        np.testing.assert_allclose(same(x), call, rtol=1e-4, atol=1e-4)
    assert np.max(np.abs(other(x) - first)) > 0.01


def test_noise_differs_by_seed_by_rank_and_by_layer_and_goes_on_after_a_checkpoint(tmp_path):
    model = keras.Sequential([keras.layers.InputLayer((6,)), DenseFlipout(6), DenseReparameterization(6)])
    x = tf.ones([2, 6])

    def streams(*seed, **how):
        seed_noise(model, *seed, **how)
        return [layer.generator.normal([4]).numpy().tolist() for layer in model.layers]

    everyone = [tuple(stream) for seed in ((0, 0), (0, 1), (1, 0), (1, 1)) for stream in streams(*seed)]
    assert len(set(everyone)) == 8
    assert streams(0, 1) == streams(0, 1)

    checkpoint = tf.train.Checkpoint(model=model)
    seed_noise(model, 7)
    model(x)
    path = checkpoint.write(str(tmp_path / "checkpoint"))
    expected, after = model(x), model(x)
    seed_noise(model, 8)
    checkpoint.read(path).assert_consumed()
    np.testing.assert_array_equal(model(x), expected)
    assert np.max(np.abs(after - expected)) > 0
    # Another rank continues its own stream from the place that rank 0 had reached in its stream.
    checkpoint.read(path)
    place = [layer.generator.state[:2].numpy().tolist() for layer in model.layers]
    seed_noise(model, 7, rank=1, restart=False)
    assert [layer.generator.state[:2].numpy().tolist() for layer in model.layers] == place
    assert np.max(np.abs(model(x) - expected)) > 0
