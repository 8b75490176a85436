"""IVON follows its algorithm, finds the posterior of a conjugate model, and refuses what it cannot do."""

from helpers.elbo import NegativeElbo
from helpers.fit import fit
from helpers.inference import Posterior, predict, sample_outputs
from helpers.layers import DenseFlipout
from helpers.layers.noise import stateless_normal, step_key
from helpers.methods.ivon import IVON
from helpers.runs import Run, restore_model

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tensorflow_probability import distributions as tfd

from tests.support.networks import stack

kl = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32) @ np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 2]], np.float32)
Y = (X @ np.array([[1.0], [-2.0], [0.5]], np.float32) + RNG.normal(size=(40, 1))).astype(np.float32)


def half_square(y, outputs):
    """The NLL of a Gaussian of variance 1, without its constant."""
    return 0.5 * tf.reduce_mean(tf.square(y - outputs))


def linear(bias=False, dtype="float32"):
    keras.utils.set_random_seed(3)
    return keras.Sequential([kl.InputLayer((3,), dtype=dtype), kl.Dense(1, use_bias=bias, dtype=dtype)], "linear")


def train(model, optimizer, steps=5, x=X, y=Y, nll=half_square, **run):
    """Train with whole batches, so that the gradient does not depend on the order of the examples."""
    how = {"batch_size": len(x), "epochs": steps, "seed": 7, "loss": NegativeElbo(nll)}
    run = {"progress": False, "steps_per_call": 100, "checkpoint_every": 10**6, "callback_every": 10**6, **run}
    return fit(model, x, y, optimizer=optimizer, run=Run(**run), **how)


def algorithm(weights, steps, rate, size, beta1, beta2, h0, delta, draws, radius):
    """Algorithm 1 of Shen et al. (2024) for a linear model, in NumPy."""
    m = np.concatenate([w.ravel() for w in weights])
    features = np.concatenate([X, np.ones((len(X), 1))], 1).astype(np.float64)
    g, h = np.zeros(4), np.full(4, h0)
    for t in range(1, steps + 1):
        sigma, gradients, hessians = 1 / np.sqrt(size * (h + delta)), [], []
        for draw in range(draws):
            theta = m + sigma * stateless_normal(step_key(7, draw, tf.constant(t - 1, tf.int64)), [4]).numpy()
            gradients.append(features.T @ (features @ theta - Y[:, 0]) / len(X))
            hessians.append(gradients[-1] * (theta - m) / sigma**2)
        g_hat, h_hat = np.mean(gradients, 0), np.mean(hessians, 0)
        g = beta1 * g + (1 - beta1) * g_hat
        h = beta2 * h + (1 - beta2) * h_hat + 0.5 * (1 - beta2) ** 2 * (h - h_hat) ** 2 / (h + delta)
        step = (g / (1 - beta1**t) + delta * m) / (h + delta)
        m = m - rate(t) * (h0 + delta) * np.clip(step, -radius, radius)
    return m, g, h


@pytest.mark.parametrize(
    ("dtype", "draws", "radius"), [("float32", 1, np.inf), ("float32", 3, 0.7), ("float64", 2, 0.7)]
)
def test_training_follows_the_algorithm(dtype, draws, radius):
    how = {"beta1": 0.8, "beta2": 0.7, "hess_init": 0.5, "weight_decay": 0.1, "draws": draws, "clip_radius": radius}
    model = linear(bias=True, dtype=dtype)
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 6, end_learning_rate=0.4)  # a warm-up
    right = algorithm(model.get_weights(), 6, lambda t: 0.1 + 0.05 * (t - 1), 60.0, *how.values())
    optimizer = IVON(schedule, 60, **how)
    train(model, optimizer, 6, X.astype(dtype), Y.astype(dtype))
    found = np.concatenate([w.ravel() for w in model.get_weights()]), optimizer.momentum, optimizer.hessian
    for a, b in zip(found, right, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_posterior_of_a_conjugate_model_is_the_best_of_its_family(seed):
    """With precision P the best independent normal distribution has the right mean and the variances 1 / P_ii."""
    delta, steps, model = 0.05, 2500, linear()
    precision = X.T @ X + len(X) * delta * np.eye(3)
    mean, deviation = np.linalg.solve(precision, X.T @ Y)[:, 0], 1 / np.sqrt(np.diag(precision))
    assert np.abs(np.linalg.inv(precision).diagonal() / deviation**2 - 1).max() > 0.2  # the exact ones differ
    optimizer = IVON(
        keras.optimizers.schedules.CosineDecay(0.1, steps), len(X), beta2=0.9985, weight_decay=delta, draws=4
    )
    run = Run(progress=False, steps_per_call=250, checkpoint_every=steps, callback_every=steps)
    x, y = np.repeat(X, 250, 0), np.repeat(Y, 250, 0)  # an epoch has many steps, so it costs little between them
    fit(model, x, y, batch_size=40, epochs=10, seed=seed, optimizer=optimizer, loss=NegativeElbo(half_square), run=run)
    [(m, sigma)] = optimizer.posterior(model).moments()
    assert np.abs((m[:, 0] - mean) / deviation).max() < 0.05
    assert np.abs(sigma[:, 0] ** 2 / deviation**2 - 1).max() < 0.1


def test_draws_have_the_moments_and_the_kl_is_that_of_normal_distributions():
    model = linear(bias=True)
    optimizer = IVON(0.1, 50, beta2=0.5, weight_decay=0.2)
    train(model, optimizer)
    posterior = optimizer.posterior(model)
    assert isinstance(posterior, Posterior) and posterior.members is None
    (w, s), (b, r) = posterior.moments()
    q = tfd.Normal(np.concatenate([w[:, 0], b]), np.concatenate([s[:, 0], r]))
    expected = float(tf.reduce_sum(tfd.kl_divergence(q, tfd.Normal(0.0, np.float32(1 / np.sqrt(50 * 0.2))))))
    assert posterior.kl() == pytest.approx(expected, rel=1e-4)
    before, x = model.get_weights(), np.eye(4, 3, dtype=np.float32)
    found = sample_outputs(posterior, x, 400, seed=1)[:, :, 0] - sample_outputs(model, x)[0, :, 0]
    spread = np.sqrt((x**2) @ s[:, 0] ** 2 + r**2)
    assert np.abs(found.mean(0) / spread).max() < 4.5 / np.sqrt(400)
    assert np.abs(found.std(0) / spread - 1).max() < 4.5 / np.sqrt(800)
    np.testing.assert_array_equal(sample_outputs(posterior, x, 3, seed=1), sample_outputs(posterior, x, 5, seed=1)[:3])
    for a, c in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, c)


def test_a_run_that_is_resumed_or_restored_goes_on_as_if_it_had_not_ended(tmp_path):
    def run(steps, **how):
        model, optimizer = linear(), IVON(0.1, 40, beta2=0.9)
        train(model, optimizer, 8, max_steps=steps, **how)
        return model, optimizer

    whole, optimizer = run(8)
    run(3, folder=tmp_path)
    parts, _ = run(8, folder=tmp_path, resume=True)
    np.testing.assert_array_equal(whole.get_weights()[0], parts.get_weights()[0])
    with pytest.raises(ValueError, match="weight_decay = 0.0001, this one has 0.5"):
        train(linear(), IVON(0.1, 40, beta2=0.9, weight_decay=0.5), 8, folder=tmp_path, resume=True)
    again, other = linear(), IVON(9.0, 1.0, weight_decay=3.0)
    restore_model(again, tmp_path, other)
    posteriors = optimizer.posterior(whole), other.posterior(again)
    np.testing.assert_array_equal(*(sample_outputs(posterior, X, 3) for posterior in posteriors))
    assert posteriors[0].kl() == posteriors[1].kl()
    with pytest.raises(ValueError, match="does not fit the model .* or the optimiser"):
        restore_model(linear(bias=True), tmp_path, IVON(1.0, 1.0))


class Partly(keras.Model):
    """A model with an embedding, batch normalisation, frozen weights, and a layer that the loss does not depend on."""

    def __init__(self):
        super().__init__()
        self.embedding, self.normal, self.unused = kl.Embedding(9, 4), kl.BatchNormalization(), kl.Dense(2)
        self.frozen, self.last = kl.Dense(4, "tanh", trainable=False), kl.Dense(2)

    def call(self, x):
        hidden = self.normal(self.embedding(x))
        self.unused(hidden)
        return self.last(self.frozen(tf.reduce_mean(hidden, 1)))


@pytest.mark.filterwarnings("ignore:The loss does not depend")
def test_other_layers_and_variables_are_as_they_are_for_every_optimiser():
    keras.utils.set_random_seed(0)
    x = RNG.integers(0, 9, (64, 5))
    y, model = (x[:, 0] > 4).astype(int), Partly()
    model(x)
    before = {id(variable): variable.numpy() for variable in model.variables}
    optimizer = IVON(0.5, 64, beta2=0.99)
    history = fit(model, x, y, epochs=40, batch_size=16, optimizer=optimizer, run=Run(progress=False))
    assert history.epochs[-1]["nll"] < 0.8 * history.epochs[0]["nll"]
    moved = {id(v) for v in model.variables if np.abs(v.numpy() - before[id(v)]).max() > 0}
    still = {id(v) for layer in (model.unused, model.frozen) for v in layer.variables}
    assert moved == set(before) - still
    sigma = dict(zip(map(id, model.trainable_variables), optimizer.posterior(model).moments(), strict=True))
    assert predict(optimizer.posterior(model), x, 3).shape == (3, 64, 2)
    assert sigma[id(model.unused.kernel)][1].min() > max(sigma[id(model.last.kernel)][1].max(), 1 / 8)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_trains_as_single_precision_does(policy):
    x = RNG.normal(size=(64, 5)).astype(np.float32)
    y, found = (x[:, 0] > 0).astype(int), []
    for name in (policy, "float32"):
        keras.utils.set_random_seed(0)
        model = stack((5,), kl.Dense(8, "tanh", dtype=name), kl.Dense(2, dtype=name))
        optimizer = IVON(0.5, 64, beta2=0.99)
        fit(model, x, y, epochs=4, batch_size=16, optimizer=optimizer, run=Run(progress=False))
        found.append(np.concatenate([part.ravel() for part in model.get_weights()]))
        assert model.trainable_variables[0].dtype == tf.float32
    assert 0 < np.abs(found[0] - found[1]).max() < 0.1 * np.abs(found[1]).max()


def test_weights_come_back_after_an_error():
    model, optimizer = linear(), IVON(0.1, 40)
    optimizer.build(model.trainable_variables)
    before = model.get_weights()[0]
    with pytest.raises(KeyError), optimizer.sampled(step_key(0, 0, tf.constant(0, tf.int64))):
        assert np.abs(model.get_weights()[0] - before).min() > 0
        raise KeyError
    np.testing.assert_array_equal(model.get_weights()[0], before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate > 0, found 0.0"),
        ({"effective_sample_size": -1}, "effective_sample_size > 0, found -1"),
        ({"effective_sample_size": np.nan}, "effective_sample_size > 0, found nan"),
        ({"beta2": 1.0}, r"beta2 in \[0, 1\), found 1.0"),
        ({"draws": 1.5}, "draws > 0 and whole, found 1.5"),
        ({"weight_decay": 0.0}, "weight_decay > 0, found 0.0"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        IVON(**{"learning_rate": 0.1, "effective_sample_size": 10, **arguments})


@pytest.mark.filterwarnings("ignore:.*add_variable", "ignore:The initializer")
def test_what_ivon_cannot_train_is_refused():
    optimizer = IVON(0.1, 40)
    with pytest.raises(
        ValueError, match="IVON learns a posterior of all weights, but sequential.* has Bayesian layers"
    ):
        train(stack((3,), DenseFlipout(1)), optimizer)
    with pytest.raises(ValueError, match="has not trained the variables of linear"):
        optimizer.posterior(linear())
    train(linear(), optimizer, 1)
    with pytest.raises(ValueError, match="has the variables of another model"):
        train(linear(), optimizer, 1)
    with pytest.raises(ValueError, match=r"float32 or float64 variables, found \['float16'"):
        train(linear(dtype="float16"), IVON(0.1, 40), 1, X.astype(np.float16), Y.astype(np.float16))
    model = linear()
    model.compile(IVON(0.1, 40), "mse")
    with pytest.raises(TypeError, match="IVON needs gradients at a draw"):
        model.fit(X, Y, verbose=0)
