"""Draws from a model's posterior, and the outputs of networks with the drawn weights."""

from helpers.inference import is_bayesian, posterior_moments, sample_outputs, variational_layers
from helpers.inference.networks import compile_networks

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras

from tests.support.networks import KINDS, model_of, random_bias, stack

tfpl, kl = tfp.layers, keras.layers
pytestmark = pytest.mark.filterwarnings("ignore")


def test_layers_with_a_posterior_are_found():
    mixed, joint = (model_of(kind)[0] for kind in ("mixed", "joint"))
    flipout = (tfpl.Convolution2DFlipout, tfpl.DenseFlipout)
    assert variational_layers(mixed) == [layer for layer in mixed.layers if isinstance(layer, flipout)]
    assert len(variational_layers(mixed)) == 2
    assert variational_layers(joint) == []  # the kernel has no posterior of its own
    assert all(is_bayesian(model_of(kind)[0]) for kind in ("dense flipout", "joint", "wrapped", "branched"))
    plain = stack((5,), kl.Dense(3))
    assert not is_bayesian(plain) and variational_layers(plain) == [] and posterior_moments(plain) == {}


def test_posterior_moments_are_those_that_the_variables_define():
    model, _ = model_of("dense flipout")
    found = posterior_moments(model)
    assert list(found) == [layer.name for layer in model.layers]
    for layer in model.layers:
        loc, untransformed_scale = layer.get_weights()[:2]
        means, deviations = found[layer.name]
        np.testing.assert_array_equal(means, loc)
        np.testing.assert_allclose(deviations, np.log1p(np.exp(untransformed_scale.astype(float))), rtol=1e-4)


def plain_loop(model, x, num_draws):
    """The model's own forward passes, one after the other: float64 [S, N, K]."""

    # Keras' TimeDistributed calls a layer once for all steps only where it does not know the batch size.
    @tf.function(input_signature=[tf.TensorSpec([None, *x.shape[1:]])])
    def passes(x):
        return tf.map_fn(lambda _: model(x), tf.range(num_draws), fn_output_signature=tf.float32)

    return passes(x).numpy().astype(np.float64)


def largest_z(a, b):
    """The largest z-score of a difference of two samples' [S, ...] means or variances."""
    squares = [(draws - draws.mean(0)) ** 2 for draws in (a, b)]
    return max(
        np.abs((a.mean(0) - b.mean(0)) / np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))).max()
        for a, b in ((a, b), squares)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_means_and_variances_are_those_of_the_plain_loop(kind):
    model, x = model_of(kind)
    num_draws = 200 if "BNN" in kind else 500
    loop, other = np.split(plain_loop(model, x, 2 * num_draws), 2)
    ours = sample_outputs(model, x, num_draws, seed=1).astype(np.float64)
    varies = loop.std(0) > 1e-6
    assert varies.mean() > 0.4
    loop, other, ours = (draws[:, varies] for draws in (loop, other, ours))
    assert largest_z(ours, loop) < max(5.5, 1.5 * largest_z(other, loop))


def deterministic(layer):
    """A stock layer in place of a Bayesian one; others as they are."""
    if not (hasattr(layer, "kernel_posterior") or isinstance(layer, tfpl.DenseVariational)):
        return layer
    if not hasattr(layer, "filters"):
        return kl.Dense(layer.units, layer.activation, use_bias=getattr(layer, "bias_posterior", True) is not None)
    convolution = {1: kl.Conv1D, 2: kl.Conv2D, 3: kl.Conv3D}[layer.rank]
    return convolution(
        layer.filters, layer.kernel_size, layer.strides, layer.padding, activation=layer.activation,
        dilation_rate=layer.dilation_rate,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("wrapped", "branched")])
def test_outputs_are_exactly_those_of_a_network_with_the_drawn_weights(kind):
    model, x = model_of(kind)
    ours = sample_outputs(model, x, 3, seed=5)
    weights = compile_networks(model, x).weights(5, 0, 3)
    places = [place for place, layer in enumerate(model.layers) if deterministic(layer) is not layer]
    twin = stack(model.input_shape[1:], *map(deterministic, model.layers))
    for draw in range(3):
        for place, drawn in zip(places, weights, strict=True):
            twin.layers[place].set_weights([tensor[draw].numpy() for tensor in drawn])
        np.testing.assert_allclose(ours[draw], twin(x), rtol=1e-4, atol=1e-4 * np.abs(ours).max())


def test_a_layer_used_twice_has_one_draw_of_its_weights():
    layer, x = tfpl.DenseFlipout(1, bias_posterior_fn=None), keras.Input((1,))
    model = keras.Model(x, kl.Concatenate()([layer(x), layer(layer(x))]))
    once, twice = sample_outputs(model, np.ones((1, 1)), 20)[:, 0].T
    np.testing.assert_allclose(twice, once**2, rtol=1e-5)


def test_draws_are_independent_of_each_other():
    model = stack((1,), tfpl.DenseFlipout(1, **random_bias()))
    y = sample_outputs(model, np.array([[0.0], [1.0]]), 4000)[:, :, 0]
    bias, kernel = y[:, 0], y[:, 1] - y[:, 0]
    # Of as many numbers of 24 bits two or three may be equal.
    assert min(len(np.unique(bias)), len(np.unique(kernel))) > 3990
    other = sample_outputs(model, np.zeros((1, 1)), 4000, seed=1)[:, 0, 0]
    pairs = [(bias[lag:], bias[:-lag]) for lag in (1, 2, 32)] + [(bias, kernel), (bias, other)]
    assert all(abs(np.corrcoef(a, b)[0, 1]) < 4.5 / np.sqrt(len(a)) for a, b in pairs)


def test_weights_are_independent_normal_draws_from_the_posterior():
    model, x = model_of("dense wide")
    weights = compile_networks(model, x).weights(0, 0, 20)
    units = []
    for layer, (kernels, _) in zip(variational_layers(model), weights, strict=True):
        posterior = layer.kernel_posterior
        units.append(((kernels - posterior.mean()) / posterior.stddev()).numpy().reshape(20, -1))
    assert scipy.stats.kstest(units[0].ravel(), "norm").pvalue > 1e-3
    assert np.all(np.abs(np.corrcoef(units[0])[np.triu_indices(20, 1)]) < 4.5 / np.sqrt(units[0].shape[1]))
    start = units[0][:, : units[1].shape[1]].ravel()
    assert abs(np.corrcoef(start, units[1].ravel())[0, 1]) < 4.5 / np.sqrt(start.size)
    half = units[0].shape[1] // 2  # the two numbers of a Box-Muller pair
    assert abs(np.corrcoef(units[0][:, :half].ravel(), units[0][:, half:].ravel())[0, 1]) < 4.5 / np.sqrt(20 * half)


def test_networks_of_a_convolutional_model_are_computed_in_a_loop_without_variables():
    """TensorFlow runs a loop that reads variables one step after the other, so only one core would be busy."""
    model, x = model_of("CIFAR10_BNN_model")
    graph = compile_networks(model, x).traced[1].get_concrete_function().graph.as_graph_def()
    operations = {node.op for function in graph.library.function for node in function.node_def}
    operations |= {node.op for node in graph.node}
    assert "StatelessWhile" in operations and not operations & {"While", "ReadVariableOp"}
