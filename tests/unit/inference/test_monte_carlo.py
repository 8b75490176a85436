"""Monte Carlo inference: how draws are split, what stays in memory, and what is refused."""

import gc
import threading
import time
import weakref

from helpers import data, models
from helpers.inference import monte_carlo, predict, sample_outputs
from helpers.inference.networks import compile_networks

import numpy as np
import psutil
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.support.networks import model_of, stack

kl = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("kind", ["dense flipout", "mixed", "branched"])
def test_draws_do_not_depend_on_how_they_are_chunked(kind, monkeypatch):
    model, x = model_of(kind)
    whole = sample_outputs(model, x, 11, seed=2)
    np.testing.assert_array_equal(whole, sample_outputs(model, x, 11, seed=2))
    np.testing.assert_allclose(whole[:4, :2], sample_outputs(model, x[:2], 4, seed=2), atol=1e-5)
    np.testing.assert_allclose(whole, sample_outputs(model, x, 11, seed=2, budget_mb=1e-3), atol=1e-5)
    for draws, passes, cache in ((3, 12, 1000), (1, 2, 2**20), (4, 8192, 10)):
        monkeypatch.setattr(monte_carlo, "DRAWS", draws)
        monkeypatch.setattr(monte_carlo, "PASSES", passes)
        monkeypatch.setattr(monte_carlo, "CACHE", cache)
        np.testing.assert_allclose(whole, sample_outputs(model, x, 11, seed=2), atol=1e-5)
    assert np.abs(whole - sample_outputs(model, x, 11, seed=3)).max(axis=(1, 2)).min() > 1e-3
    networks = compile_networks(model, x)
    for some, alone in zip(*(tf.nest.flatten(networks.weights(2, *n)) for n in ((0, 9), (7, 1))), strict=True):
        np.testing.assert_array_equal(some[7], alone[0])


def test_a_deterministic_model_has_one_output_and_images_are_normalised():
    model = models.build("CNN_conv", (12, 12, 1))
    x = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 1), np.uint8)
    outputs = sample_outputs(model, x)
    assert outputs.shape == (1, 5, 10) and outputs.dtype == np.float32
    np.testing.assert_allclose(outputs[0], model(x / np.float32(255)), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(outputs, sample_outputs(model, data.normalise(x)))


def test_probabilities_are_the_softmax_of_the_outputs():
    model, x = model_of("dense flipout")
    p = predict(model, 100 * x, 9, seed=4)
    np.testing.assert_allclose(p, tf.nn.softmax(sample_outputs(model, 100 * x, 9, seed=4)), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["dense flipout", "mixed"])
def test_a_model_is_compiled_once_and_its_posterior_read_anew(kind):
    model, x = model_of(kind)
    before = sample_outputs(model, x, 3)
    networks = compile_networks(model, x)
    for variable in model.trainable_variables:
        variable.assign_add(tf.fill(variable.shape, 0.1))
    after = sample_outputs(model, np.concatenate([x, x])[:11], 50, budget_mb=2)
    assert np.abs(after[:3, :6] - before).min(axis=(0, 1)).max() > 1e-3
    tf.function(model)(x), model(x, training=True)
    assert compile_networks(model, x) is networks
    for function in networks.traced:
        assert function.experimental_get_tracing_count() == 1
    model.pop() if kind == "mixed" else model.add(kl.Dense(2))
    assert sample_outputs(model, x, 3).shape[2] != before.shape[2]


def test_a_model_that_was_sampled_can_be_used_saved_and_forgotten(tmp_path):
    model, x = model_of("dense flipout")
    variables = [variable.name for variable in model.variables]
    sample_outputs(model, x, 3)
    assert not any("call" in vars(layer) for layer in model.layers)
    assert len({model(x).numpy().tobytes() for _ in range(5)}) == 5 and len(model.losses) == 2
    model.save(tmp_path / "model.keras")
    assert [variable.name for variable in model.variables] == variables
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_memory_is_bounded_by_the_budget():
    """Together, the convolution's outputs for all draws and examples take 2.6 GB, all weights 0.2 GB."""
    model = models.build("BNN_conv_flip")
    x = np.zeros((40, 28, 28, 1), np.uint8)
    sample_outputs(model, x, 4, budget_mb=32)
    process, done, peak = psutil.Process(), threading.Event(), [0]

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], process.memory_info().rss)
            time.sleep(0.002)

    gc.collect()
    before, watcher = process.memory_info().rss, threading.Thread(target=watch)
    watcher.start()
    try:
        sample_outputs(model, x, 330, budget_mb=32)
    finally:
        done.set()
        watcher.join()
    assert peak[0] - before < 48 * 2**20


def test_what_is_wrong_is_said():
    model, x = model_of("dense flipout")
    with pytest.raises(ValueError, match="at least 1 draw, found num_draws=0"):
        sample_outputs(model, x, 0)
    with pytest.raises(ValueError, match=r"expected x \[N, 5\] .* found \[6, 4\]"):
        sample_outputs(model, x[:, :4])
    with pytest.raises(ValueError, match="at least one example"):
        sample_outputs(model, x[:0])
    pair = [keras.Input((5,)), keras.Input((5,))]
    with pytest.raises(ValueError, match=r"expected 2 inputs, .* found \[\[6, 5\]\]"):
        sample_outputs(keras.Model(pair, kl.Add()(pair)), x)
    with pytest.raises(ValueError, match="probabilities already"):
        predict(stack((5,), kl.Dense(3, "softmax")), x)
    with pytest.raises(ValueError, match="at least two classes"):
        predict(stack((5,), kl.Dense(1)), x)
    with pytest.raises(ValueError, match=r"expected uint8 only for images .* found \[6, 5\]"):
        sample_outputs(model, x.astype(np.uint8))
