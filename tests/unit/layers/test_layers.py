"""The Bayesian layers: the distribution of their outputs, their gradients, their KL, their noise."""

from helpers import models
from helpers.elbo import negative_elbo
from helpers.layers.bayesian import (
    Convolution2DFlipout,
    Convolution2DReparameterization,
    DenseFlipout,
    DenseReparameterization,
    flipout,
    gaussian_kl,
    seed_noise,
)

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras

tfd = tfp.distributions
# TFP's layers warn of what ours avoid.
pytestmark = pytest.mark.filterwarnings("ignore:.*add_variable", "ignore:The initializer RandomNormal")
# As (channels, kernel size, width, padding, strides): what the convolution does depends on the sizes.
WRITTEN_OUT = [(1, 5, 12, "same", 1), (1, 5, 27, "valid", 2), (2, 4, 24, "same", 2)]
GROUPED = [(4, 3, 12, "same", 1), (8, 3, 25, "valid", 2), (3, 5, 16, "valid", (1, 1)), (8, (3, 2), 25, "same", (2, 1))]
TWO_PRODUCTS = [(1, 5, 6, "same", 1), (4, 3, 9, "valid", 2)]


def posterior(sd):
    """A posterior of random means and standard deviations about `sd`, the same at each call."""

    def make(dtype, shape, name, trainable, add_variable):
        random = np.random.default_rng(np.prod(shape))
        loc, x = random.normal(size=shape), np.log(np.expm1(sd * random.uniform(0.5, 2.0, shape)))
        fn = tfp.layers.default_mean_field_normal_fn(
            loc_initializer=keras.initializers.Constant(loc),
            untransformed_scale_initializer=keras.initializers.Constant(x),
        )
        return fn(dtype, shape, name, trainable, add_variable)

    return make


def dense_layer(cls, **more):
    x = np.random.default_rng(1).normal(size=(3, 7)).astype(np.float32)
    return cls(4, kernel_posterior_fn=posterior(0.3), bias_posterior_fn=None, **more), x


def conv_layer(cls, case, **more):
    channels, kernel, width, padding, strides = case
    x = np.random.default_rng(1).normal(size=(3, width, width, channels)).astype(np.float32)
    more = {"kernel_posterior_fn": posterior(0.3), "bias_posterior_fn": None, **more}
    return cls(3, kernel, padding=padding, strides=strides, **more), x


def sample(layer, x, draws):
    """`draws` outputs of the layer, flattened to [draws, B, places, units]."""
    layer(x)

    @tf.function
    def run():
        return tf.map_fn(lambda _: layer(x), tf.range(draws), fn_output_signature=tf.float32)

    outputs = run().numpy()
    return outputs.reshape(draws, len(x), -1, outputs.shape[-1])


def moments(layer, x):
    """Exact moments of the outputs if every place's inputs x [B, places, K] meet weights [K, O] of one draw.

    Returns:
      mean [B, places, O] and covariance [B, places, B, places, O] of outputs of the same unit.
    """
    q = layer.kernel_posterior
    mean, sd = q.mean().numpy(), q.stddev().numpy()
    if mean.ndim == 4:
        height, width = mean.shape[:2]
        strides = [1, *layer.strides, 1]
        x = tf.image.extract_patches(x, [1, height, width, 1], strides, [1] * 4, layer.padding.upper()).numpy()
        x, mean, sd = x.reshape(len(x), -1, x.shape[-1]), mean.reshape(-1, mean.shape[-1]), sd.reshape(-1, sd.shape[-1])
    else:
        x = x[:, None]
    return x @ mean, np.einsum("apk,bqk,ko->apbqo", x, x, sd**2)


def worst(samples, expected):
    """The largest deviation of the mean over the first axis from `expected`, in standard errors."""
    error = samples.std(axis=0) / np.sqrt(len(samples))
    return np.max(np.abs(samples.mean(axis=0) - expected) / error)


def deviations(layer, x, draws=2500):
    """How far mean, covariance within an example, and covariance across examples are from a shared draw's."""
    outputs, (mean, covariance) = sample(layer, x, draws), moments(layer, x)
    centred = outputs - mean
    # A few places are enough; all pairs of them would be many.
    places = np.linspace(0, mean.shape[1] - 1, 4).astype(int) if mean.shape[1] > 1 else [0]
    centred, covariance = centred[:, :, places], covariance[:, places][:, :, :, places]
    products = np.einsum("tapo,tbqo->tapbqo", centred, centred)
    same = np.arange(len(x))
    return {
        "mean": worst(outputs, mean),
        "within": worst(products[:, same, :, same].swapaxes(0, 1), covariance[same, :, same]),
        "units": worst(centred[..., 0] * centred[..., 1], 0.0),
        "shared": worst(products[:, 0, :, 1], covariance[0, :, 1]),
        "independent": worst(products[:, 0, :, 1], 0.0),
    }


FLIPOUT = [(DenseFlipout, None), (tfp.layers.DenseFlipout, None)] + [
    (cls, cases[0])
    for cases in (WRITTEN_OUT, GROUPED, TWO_PRODUCTS)
    for cls in (Convolution2DFlipout, tfp.layers.Convolution2DFlipout)
]
SHARED = [(DenseReparameterization, None), (Convolution2DReparameterization, GROUPED[0])]


@pytest.mark.parametrize("cls, case", FLIPOUT + SHARED)
def test_outputs_have_the_exact_moments(cls, case):
    """Within an example a draw of the weights is shared by all places; across examples flipout's are uncorrelated."""
    tf.random.set_seed(3)
    seed = {} if cls.__module__.startswith("tensorflow_probability") else {"seed": 5}
    found = deviations(*(dense_layer(cls, **seed) if case is None else conv_layer(cls, case, **seed)))
    across, not_so = ("independent", "shared") if "Flipout" in cls.__name__ else ("shared", "independent")
    assert max(found["mean"], found["within"], found["units"], found[across]) < 5.5
    assert found[not_so] > 7  # the two can be told apart by these draws


@pytest.mark.parametrize("case", WRITTEN_OUT + GROUPED)
def test_a_convolution_in_one_product_is_the_one_in_two(case, monkeypatch):
    """Of equal noise all ways of computing make equal outputs and gradients, whatever the number of rows."""
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


def test_without_gradients_of_groups_there_are_two_products(monkeypatch):
    """As where TensorFlow has no oneDNN."""
    layer, x = conv_layer(Convolution2DFlipout, GROUPED[0], seed=2)
    expected = layer(x)
    monkeypatch.setattr(flipout, "_groups_have_gradients", lambda dtype: False)
    layer, _ = conv_layer(Convolution2DFlipout, GROUPED[0], seed=2)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "cls, case",
    [
        (DenseFlipout, None),
        (DenseReparameterization, None),
        (Convolution2DFlipout, WRITTEN_OUT[0]),
        (Convolution2DFlipout, GROUPED[0]),
        (Convolution2DFlipout, TWO_PRODUCTS[0]),
    ],
)
def test_gradients_are_unbiased(cls, case):
    """Against those of the expected loss, which for a square loss is known from mean and variance."""
    layer, x = dense_layer(cls, seed=5) if case is None else conv_layer(cls, case, seed=5)
    layer(x)
    target = 0.5

    @tf.function
    def estimate(_):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((layer(x) - target) ** 2)
        return tape.gradient(loss, layer.trainable_variables)

    draws = tf.function(lambda: tf.map_fn(estimate, tf.range(1000), fn_output_signature=[tf.float32] * 2))()
    apply = tf.matmul if case is None else layer._convolution_op
    with tf.GradientTape() as tape:
        q = layer.kernel_posterior.distribution
        mean, variance = apply(tf.constant(x), q.loc), apply(tf.constant(x**2), tf.convert_to_tensor(q.scale) ** 2)
        loss = tf.reduce_mean((mean - target) ** 2 + variance)
    exact = tape.gradient(loss, layer.trainable_variables)
    for estimates, gradient in zip(draws, exact, strict=True):
        assert worst(estimates.numpy(), gradient.numpy()) < 5.5


@pytest.mark.parametrize("ours, stock", [(DenseFlipout, tfp.layers.DenseFlipout),
                                         (Convolution2DFlipout, tfp.layers.Convolution2DFlipout)])  # fmt: skip
def test_the_kl_is_tfps(ours, stock):
    """So are its gradients; and the weights of a layer are those of TFP's, in the same order."""

    def prior(dtype, shape, *_):
        return tfd.Independent(tfd.Normal(tf.fill(shape, 0.2), tf.fill(shape, 0.7)), len(shape))

    shape = (2, 20, 20, 3)
    for more in ({}, {"kernel_prior_fn": prior}):
        layers = [cls(5, *[3] * (cls.__name__[0] == "C"), **more) for cls in (ours, stock)]
        results = []
        for layer in layers:
            layer.build(shape)
            layer.set_weights(layers[0].get_weights())
            with tf.GradientTape() as tape:
                layer(np.zeros(shape, np.float32))
                (loss,) = layer.losses
            results.append([loss, *tape.gradient(loss, layer.trainable_variables[:2])])
        for mine, theirs in zip(*results, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6)


def test_the_kl_of_other_distributions_is_left_to_tfp():
    laplace = tfd.Independent(tfd.Laplace(tf.zeros(3), tf.ones(3)), 1)
    narrow = tfd.Independent(tfd.Laplace(tf.zeros(3), 0.5 * tf.ones(3)), 1)
    assert float(gaussian_kl(narrow, laplace)) == pytest.approx(float(tfd.kl_divergence(narrow, laplace)))


def test_normals_and_signs_are_what_they_are_called():
    generator = tf.random.Generator.from_seed(11)
    normals = flipout.normal(generator, (401, 501)).numpy().ravel()
    assert scipy.stats.kstest(normals, "norm").pvalue > 1e-3
    error = 1 / np.sqrt(len(normals))
    for power, (moment, spread) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], start=1):
        assert abs(np.mean(normals**power) - moment) < 4.5 * np.sqrt(spread) * error
    half = len(normals) // 2  # the two numbers of a pair lie half the array apart
    assert abs(np.mean(normals[:half] * normals[-half:])) < 4.5 / np.sqrt(half)
    assert abs(np.mean(normals[:half] ** 2 * normals[-half:] ** 2) - 1) < 4.5 * np.sqrt(8 / half)

    signs = flipout.signs(generator, 301, 67).numpy()
    assert signs.shape == (301, 67) and set(np.unique(signs)) == {-1.0, 1.0}
    assert np.abs(signs.mean(axis=0)).max() < 4.5 / np.sqrt(301)
    correlations = np.concatenate([np.ravel(a @ a.T / a.shape[1] - np.eye(len(a))) * np.sqrt(a.shape[1])
                                   for a in (signs, signs.T)])  # fmt: skip
    assert np.abs(correlations).max() < 5.5


ALL = [DenseReparameterization, DenseFlipout, Convolution2DReparameterization, Convolution2DFlipout]


def made(cls, **more):
    layer, x = dense_layer(cls, **more) if cls.__name__.startswith("Dense") else conv_layer(cls, GROUPED[0], **more)
    return layer, tf.constant(x)


@pytest.mark.parametrize("cls", ALL)
def test_noise_is_fresh_at_every_call_and_repeats_from_a_seed(cls):
    (layer, x), (same, _), (other, _) = made(cls, seed=1), made(cls, seed=1), made(cls, seed=2)
    run = tf.function(layer)
    first, second, third = layer(x), run(x), run(x)
    assert np.max(np.abs(first - second)) > 0.01 and np.max(np.abs(second - third)) > 0.01
    for call in (first, second, third):
        np.testing.assert_allclose(same(x), call, rtol=1e-4, atol=1e-4)
    assert np.max(np.abs(other(x) - first)) > 0.01


def test_noise_differs_by_seed_by_rank_and_by_layer_and_goes_on_after_a_checkpoint(tmp_path):
    model = keras.Sequential([keras.layers.InputLayer((6,)), DenseFlipout(6), DenseReparameterization(6)])
    x = tf.ones([2, 6])

    def noise(*seed, **how):
        seed_noise(model, *seed, **how)
        return [layer.generator.normal([4]).numpy().tolist() for layer in model.layers]

    everyone = [tuple(stream) for seed in ((0, 0), (0, 1), (1, 0), (1, 1)) for stream in noise(*seed)]
    assert len(set(everyone)) == 8
    assert noise(0, 1) == noise(0, 1)

    checkpoint = tf.train.Checkpoint(model=model)
    seed_noise(model, 7)
    model(x)
    path = checkpoint.write(str(tmp_path / "checkpoint"))
    expected, after = model(x), model(x)
    seed_noise(model, 8)
    checkpoint.read(path).assert_consumed()
    np.testing.assert_array_equal(model(x), expected)
    assert np.max(np.abs(after - expected)) > 0
    # Another rank takes up its own stream at the place where rank 0's was.
    checkpoint.read(path)
    place = [layer.generator.state[:2].numpy().tolist() for layer in model.layers]
    seed_noise(model, 7, rank=1, restart=False)
    assert [layer.generator.state[:2].numpy().tolist() for layer in model.layers] == place
    assert np.max(np.abs(model(x) - expected)) > 0


def test_ours_stand_beside_tfps_and_train():
    model = keras.Sequential([
        keras.layers.InputLayer((8, 8, 1)),
        Convolution2DFlipout(4, 3, padding="same", activation="relu"),
        tfp.layers.Convolution2DReparameterization(4, 3, activation="relu"),
        keras.layers.Flatten(),
        tfp.layers.DenseFlipout(8, activation="relu"),
        DenseReparameterization(3),
    ])  # fmt: skip
    random = np.random.default_rng(0)
    x, y = random.normal(size=(64, 8, 8, 1)).astype(np.float32), random.integers(0, 3, 64)
    before = [weights.copy() for weights in model.get_weights()]
    model(x)
    assert len(model.losses) == 4 and len(models.variational_layers(model)) == 4
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=24, verbose=0)  # the last batch is smaller
    changed = [np.any(old != new) for old, new in zip(before, model.get_weights(), strict=True)]
    assert all(changed)
    loss, *_ = negative_elbo(model, x, y, num_examples=64)
    assert np.isfinite(float(loss))


@pytest.mark.parametrize("cls", ALL)
def test_a_layer_can_be_made_again_from_its_configuration(cls):
    how = [3] if cls.__name__.startswith("Conv") else []
    layer = cls(4, *how, activation="relu", kernel_prior_fn=None, seed=3, name="again")
    model = keras.Sequential([keras.layers.InputLayer((9, 9, 2)), layer])
    clone = keras.models.clone_model(model)
    again = clone.layers[0]
    assert type(again) is cls and again.name == "again" and again.activation is keras.activations.relu
    assert again.kernel_prior is None and not clone.losses
    clone.set_weights(model.get_weights())
    x = np.ones((2, 9, 9, 2), np.float32)
    layer.generator.reset_from_seed(3)
    again.generator.reset_from_seed(3)
    np.testing.assert_array_equal(clone(x), model(x))


def test_initial_values_are_those_of_a_deterministic_network():
    layer = DenseFlipout(300)
    layer.build((None, 200))
    q = layer.kernel_posterior
    assert np.std(q.mean()) == pytest.approx(np.sqrt(2 / 200), rel=0.02)
    np.testing.assert_allclose(q.stddev(), 0.01, rtol=2e-3)
    np.testing.assert_array_equal(layer.bias_posterior.mean(), 0)


def test_other_posteriors_and_types_draw_from_the_layers_generator():
    def laplace(dtype, shape, name, trainable, add_variable):
        loc = add_variable(name, shape=shape, initializer="zeros", dtype=dtype, trainable=trainable)
        return tfd.Independent(tfd.Laplace(loc, tf.ones([], dtype)), len(shape))

    arguments = {"kernel_posterior_fn": laplace, "kernel_prior_fn": None, "seed": 4, "dtype": "float64"}
    one, two = DenseReparameterization(3, **arguments), DenseReparameterization(3, **arguments)
    x = tf.ones([2, 5], tf.float64)
    first = one(x)
    np.testing.assert_array_equal(two(x), first)
    assert np.max(np.abs(one(x) - first)) > 0.01
    with pytest.raises(TypeError, match="Normal"):
        DenseFlipout(3, **arguments)(x)
    assert DenseFlipout(3, dtype="float64")(x).dtype == tf.float64
