"""Monte-Carlo inference: draws of whole networks, however they are computed."""

import gc
import threading
import time
import weakref

from helpers import data, inference, models
from helpers.inference.monte_carlo import compile_networks, sample_outputs, sample_probabilities

import numpy as np
import psutil
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras

tfpl, tfd, kl = tfp.layers, tfp.distributions, keras.layers
pytestmark = pytest.mark.filterwarnings("ignore")


def joint_posterior(kernel_size, bias_size, dtype=None):
    n = kernel_size + bias_size
    variables = tfpl.VariableLayer(2 * n, dtype=dtype, initializer="random_normal")
    normal = tfpl.DistributionLambda(
        lambda t: tfd.Independent(tfd.Normal(t[..., :n], 0.1 + tf.nn.softplus(t[..., n:])), 1)
    )
    return keras.Sequential([variables, normal])


def joint_prior(kernel_size, bias_size, dtype=None):
    return lambda x: tfd.Independent(tfd.Normal(tf.zeros([kernel_size + bias_size]), 1.0), 1)


def correlated_posterior(dtype, shape, name, trainable, add_variable_fn):
    """Not a factorised one: neighbouring weights have a correlation of 0.9."""
    n = int(np.prod(shape))
    covariance = 0.04 * 0.9 ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    normal = tfd.MultivariateNormalTriL(tf.ones([n]), tf.constant(np.linalg.cholesky(covariance), tf.float32))
    return tfd.TransformedDistribution(normal, tfp.bijectors.Reshape(shape))


def random_bias():
    return {"bias_posterior_fn": tfpl.default_mean_field_normal_fn()}


def stacked(shape, *layers):
    return keras.Sequential([kl.InputLayer(shape), *layers])


def branched():
    """A model that is no stack: a branch, a layer used twice, and a model within."""
    x = keras.Input((6,))
    shared = tfpl.DenseFlipout(6, activation="tanh")
    inner = stacked((6,), tfpl.DenseReparameterization(4, activation="relu"), kl.Dense(4))
    return keras.Model(x, kl.Concatenate()([inner(shared(shared(x))), kl.Dense(2)(x)]))


class Subclassed(keras.Model):
    def __init__(self, *layers):
        super().__init__()
        self.stack = list(layers)

    def call(self, x):
        for layer in self.stack:
            x = layer(x)
        return x


# Every kind of layer: a model, and the shape of an example.
KINDS = {
    "dense flipout": lambda: stacked((5,), tfpl.DenseFlipout(7, activation="tanh"), tfpl.DenseFlipout(3)),
    "dense wide": lambda: stacked((64,), tfpl.DenseFlipout(64, activation="relu"), tfpl.DenseFlipout(10)),
    "dense reparameterization": lambda: stacked((5,), tfpl.DenseReparameterization(3, **random_bias())),
    "dense local": lambda: stacked((5,), tfpl.DenseLocalReparameterization(3, activation="relu")),
    "dense on sequences": lambda: stacked((4, 5), tfpl.DenseReparameterization(3), kl.Flatten(), kl.Dense(2)),
    "dense without bias": lambda: stacked((5,), tfpl.DenseFlipout(3, bias_posterior_fn=None)),
    "correlated": lambda: stacked(
        (5,), tfpl.DenseReparameterization(3, kernel_posterior_fn=correlated_posterior, kernel_divergence_fn=None)
    ),
    "joint": lambda: stacked((5,), tfpl.DenseVariational(3, joint_posterior, joint_prior, activation="tanh")),
    "conv 1": lambda: stacked((9, 2), tfpl.Convolution1DFlipout(4, 3, strides=2, padding="same"), kl.Flatten()),
    "conv 2": lambda: stacked((6, 7, 2), tfpl.Convolution2DFlipout(3, (3, 2), activation="relu"), kl.Flatten()),
    "conv 2 wide": lambda: stacked(
        (7, 7, 1), tfpl.Convolution2DReparameterization(3, 3, dilation_rate=2, **random_bias()), kl.Flatten()
    ),
    "conv 3": lambda: stacked((4, 4, 4, 1), tfpl.Convolution3DFlipout(2, 2, activation="elu"), kl.Flatten()),
    "conv 3 shared": lambda: stacked((4, 4, 4, 1), tfpl.Convolution3DReparameterization(2, 3), kl.Flatten()),
    "mixed": lambda: stacked(
        (8, 8, 1), kl.Conv2D(3, 3), kl.BatchNormalization(), kl.LeakyReLU(), tfpl.Convolution2DFlipout(4, 3),
        kl.MaxPooling2D(2), kl.Lambda(tf.tanh), kl.Dropout(0.5), kl.Flatten(), tfpl.DenseFlipout(3),
    ),
    "wrapped": lambda: stacked((3, 5), kl.TimeDistributed(tfpl.DenseReparameterization(2)), kl.Flatten()),
    "branched": branched,
    **{name: lambda name=name: models.build(name, (8, 8, 1)) for name in models.NAMES if "BNN" in name},
}  # fmt: skip


def make(kind, seed=0):
    """A model of this kind with posteriors far wider than those that training starts from, and inputs."""
    keras.utils.set_random_seed(seed)
    model = KINDS[kind]()
    for variable in model.trainable_variables:
        if "untransformed_scale" in variable.name:
            variable.assign(tf.random.uniform(variable.shape, -3.0, -1.5))
    return model, np.random.default_rng(seed).normal(size=(6, *model.input_shape[1:])).astype(np.float32)


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
    model, x = make(kind)
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
    model, x = make(kind)
    ours = sample_outputs(model, x, 3, seed=5)
    weights = compile_networks(model, x).weights(5, 0, 3)
    places = [place for place, layer in enumerate(model.layers) if deterministic(layer) is not layer]
    twin = stacked(model.input_shape[1:], *map(deterministic, model.layers))
    for draw in range(3):
        for place, drawn in zip(places, weights, strict=True):
            twin.layers[place].set_weights([tensor[draw].numpy() for tensor in drawn])
        np.testing.assert_allclose(ours[draw], twin(x), rtol=1e-4, atol=1e-4 * np.abs(ours).max())


def test_the_general_way_and_the_fast_one_agree():
    x = np.random.default_rng(0).normal(size=(6, 4, 5))
    dense = [tfpl.DenseFlipout(7, activation="tanh"), kl.Dropout(0.5), kl.Flatten(), tfpl.DenseFlipout(3)]
    fast, general = stacked((4, 5), *dense), Subclassed(*dense)
    assert compile_networks(fast, x).together and not compile_networks(general, x).together
    np.testing.assert_allclose(sample_outputs(fast, x, 40), sample_outputs(general, x, 40), atol=1e-5)


def test_a_layer_used_twice_has_one_draw_of_its_weights():
    layer, x = tfpl.DenseFlipout(1, bias_posterior_fn=None), keras.Input((1,))
    model = keras.Model(x, kl.Concatenate()([layer(x), layer(layer(x))]))
    once, twice = sample_outputs(model, np.ones((1, 1)), 20)[:, 0].T
    np.testing.assert_allclose(twice, once**2, rtol=1e-5)


def test_draws_are_independent_of_each_other():
    model = stacked((1,), tfpl.DenseFlipout(1, **random_bias()))
    y = sample_outputs(model, np.array([[0.0], [1.0]]), 4000)[:, :, 0]
    bias, kernel = y[:, 0], y[:, 1] - y[:, 0]
    # Of as many numbers of 24 bits two or three may be equal.
    assert min(len(np.unique(bias)), len(np.unique(kernel))) > 3990
    other = sample_outputs(model, np.zeros((1, 1)), 4000, seed=1)[:, 0, 0]
    pairs = [(bias[lag:], bias[:-lag]) for lag in (1, 2, 32)] + [(bias, kernel), (bias, other)]
    assert all(abs(np.corrcoef(a, b)[0, 1]) < 4.5 / np.sqrt(len(a)) for a, b in pairs)


def test_weights_are_independent_normal_draws_from_the_posterior():
    model, x = make("dense wide")
    weights = compile_networks(model, x).weights(0, 0, 20)
    units = []
    for layer, (kernels, _) in zip(models.variational_layers(model), weights, strict=True):
        posterior = layer.kernel_posterior
        units.append(((kernels - posterior.mean()) / posterior.stddev()).numpy().reshape(20, -1))
    assert scipy.stats.kstest(units[0].ravel(), "norm").pvalue > 1e-3
    assert np.all(np.abs(np.corrcoef(units[0])[np.triu_indices(20, 1)]) < 4.5 / np.sqrt(units[0].shape[1]))
    start = units[0][:, : units[1].shape[1]].ravel()
    assert abs(np.corrcoef(start, units[1].ravel())[0, 1]) < 4.5 / np.sqrt(start.size)
    half = units[0].shape[1] // 2  # the two numbers of a Box-Muller pair
    assert abs(np.corrcoef(units[0][:, :half].ravel(), units[0][:, half:].ravel())[0, 1]) < 4.5 / np.sqrt(20 * half)


@pytest.mark.parametrize("kind", ["dense flipout", "mixed", "branched"])
def test_draws_do_not_depend_on_how_they_are_chunked(kind, monkeypatch):
    model, x = make(kind)
    whole = sample_outputs(model, x, 11, seed=2)
    np.testing.assert_array_equal(whole, sample_outputs(model, x, 11, seed=2))
    np.testing.assert_allclose(whole[:4, :2], sample_outputs(model, x[:2], 4, seed=2), atol=1e-5)
    np.testing.assert_allclose(whole, sample_outputs(model, x, 11, seed=2, budget_mb=1e-3), atol=1e-5)
    for draws, passes, cache in ((3, 12, 1000), (1, 2, 2**20), (4, 8192, 10)):
        monkeypatch.setattr(inference, "DRAWS", draws)
        monkeypatch.setattr(inference, "PASSES", passes)
        monkeypatch.setattr(inference, "CACHE", cache)
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
    model, x = make("dense flipout")
    p = sample_probabilities(model, 100 * x, 9, seed=4)
    np.testing.assert_allclose(p, tf.nn.softmax(sample_outputs(model, 100 * x, 9, seed=4)), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["dense flipout", "mixed"])
def test_a_model_is_compiled_once_and_its_posterior_read_anew(kind):
    model, x = make(kind)
    before = sample_outputs(model, x, 3)
    networks = compile_networks(model, x)
    for variable in model.trainable_variables:
        variable.assign_add(tf.fill(variable.shape, 0.1))
    after = sample_outputs(model, np.concatenate([x, x])[:11], 50, budget_mb=2)
    assert np.abs(after[:3, :6] - before).min(axis=(0, 1)).max() > 1e-3
    assert compile_networks(model, x) is networks
    for function in (networks.weights, networks.outputs):
        assert function.experimental_get_tracing_count() == 1
    model.pop() if kind == "mixed" else model.add(kl.Dense(2))
    assert sample_outputs(model, x, 3).shape[2] != before.shape[2]


def test_a_model_that_was_sampled_can_be_used_saved_and_forgotten(tmp_path):
    model, x = make("dense flipout")
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
    model, x = make("dense flipout")
    with pytest.raises(ValueError, match="at least 1 draw, found num_draws=0"):
        sample_outputs(model, x, 0)
    with pytest.raises(ValueError, match=r"expected x \[N, 5\] .* found \[6, 4\]"):
        sample_outputs(model, x[:, :4])
    with pytest.raises(ValueError, match="at least one example"):
        sample_outputs(model, x[:0])
    pair = [keras.Input((5,)), keras.Input((5,))]
    with pytest.raises(ValueError, match="a model of one input, found one of 2"):
        sample_outputs(keras.Model(pair, kl.Add()(pair)), x)
    model.add(tfpl.DistributionLambda(lambda t: tfd.Normal(t, 1.0)))
    with pytest.raises(TypeError, match="leave out a layer that makes a distribution"):
        sample_outputs(model, x)
