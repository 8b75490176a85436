"""Flipout: the distribution of the outputs, and the ways in which its products are computed."""

from helpers.layers import Convolution2DFlipout, DenseFlipout, flipout

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests.support.layers import GROUPED, TWO_PRODUCTS, WRITTEN_OUT, conv_layer, dense_layer, deviations, layer_for

# TFP's layers cause these warnings, and ours avoid them.
pytestmark = pytest.mark.filterwarnings("ignore:.*add_variable", "ignore:The initializer RandomNormal")
LAYERS = [(DenseFlipout, None), (tfp.layers.DenseFlipout, None)] + [
    (cls, cases[0])
    for cases in (WRITTEN_OUT, GROUPED, TWO_PRODUCTS)
    for cls in (Convolution2DFlipout, tfp.layers.Convolution2DFlipout)
]


@pytest.mark.parametrize("cls, case", LAYERS)
def test_outputs_have_the_exact_moments(cls, case):
    """All places of an example share a draw of the weights; different examples are uncorrelated."""
    tf.random.set_seed(3)
    seed = {} if cls.__module__.startswith("tensorflow_probability") else {"seed": 5}
    found = deviations(*layer_for(cls, case, **seed))
    assert max(found["mean"], found["within"], found["units"], found["independent"]) < 5.5
    assert found["shared"] > 7  # so these draws would show if the examples shared one


@pytest.mark.parametrize("case", WRITTEN_OUT + GROUPED)
def test_a_convolution_in_one_product_is_the_one_in_two(case, monkeypatch):
    """With equal noise all ways give equal outputs and gradients, for any number of rows."""
    results = []
    for places in (0, 10**9):
        monkeypatch.setattr(flipout, "PLACES", places)
        layer, x = conv_layer(Convolution2DFlipout, case, seed=2)
        layer.build(x.shape)

        @tf.function(input_signature=[tf.TensorSpec([None, *x.shape[1:]])])
        def run(x, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = layer(x)
                loss = tf.reduce_sum(outputs**2)
            return outputs, *tape.gradient(loss, [x, *layer.trainable_variables])

        results.append([result.numpy() for result in (*run(x), *run(x[:2]))])
    for one, two in zip(*results, strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-4, atol=2e-4 * np.abs(two).max())


def test_without_gradients_of_groups_there_are_two_products(monkeypatch):
    """A TensorFlow without oneDNN has no such gradients."""
    layer, x = conv_layer(Convolution2DFlipout, GROUPED[0], seed=2)
    expected = layer(x)
    monkeypatch.setattr(flipout, "_groups_have_gradients", lambda dtype: False)
    layer, _ = conv_layer(Convolution2DFlipout, GROUPED[0], seed=2)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_channels_may_come_first():
    last, x = conv_layer(Convolution2DFlipout, GROUPED[0], seed=2)
    first, _ = conv_layer(Convolution2DFlipout, GROUPED[0], seed=2, data_format="channels_first")
    swapped = first(np.moveaxis(x, 3, 1))
    np.testing.assert_allclose(np.moveaxis(swapped, 1, 3), last(x), rtol=1e-5, atol=1e-5)


def test_leading_axes_are_all_the_batch():
    (layer, x), (flat, _) = dense_layer(DenseFlipout, seed=2), dense_layer(DenseFlipout, seed=2)
    x = np.random.default_rng(2).normal(size=(2, 5, 7)).astype(np.float32)
    outputs = tf.function(layer, input_signature=[tf.TensorSpec([None, None, 7])])(x)
    np.testing.assert_allclose(outputs, np.reshape(flat(x.reshape(10, 7)), (2, 5, 4)), rtol=1e-5, atol=1e-5)
