"""Last-layer Laplace against dense algebra, TensorFlow's Hessian and Bayesian linear regression."""

from helpers.inference import Posterior, sample_outputs
from helpers.methods.laplace import LastLayerLaplace

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tf_keras as keras

from tests.support.networks import stack

kl = keras.layers
DRAWS = 400


def trained(seed, *last, n=40):
    """A small network with weights that are as large as after training, and its inputs."""
    keras.utils.set_random_seed(seed)
    model = stack((4,), kl.Dense(3, "tanh"), *(last or [kl.Dense(3)]))
    model.set_weights([2 * weight + 0.3 * np.random.randn(*weight.shape) for weight in model.get_weights()])  # noqa: NPY002
    return model, np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)


def features(model, x):
    kernel, bias = model.layers[0].get_weights()
    phi = np.tanh(x.astype(np.float64) @ kernel + bias)
    return np.concatenate([phi, np.ones([len(x), 1])], 1) if model.layers[-1].use_bias else phi


def drawn(posterior, number):
    with posterior.fixed(1, number) as model:
        kernel, bias = model.layers[-1].get_weights()
    return np.concatenate([kernel, bias[None]]).astype(np.float64)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_the_full_hessian_is_the_one_that_tensorflow_differentiates(seed, bias):
    model, x = trained(seed, kl.Dense(3, use_bias=bias))
    posterior, phi, tau = LastLayerLaplace(model, x, 0.7, hessian="full"), features(model, x), 0.7
    w = tf.constant(np.concatenate([np.atleast_2d(v) for v in model.layers[-1].get_weights()]), tf.float64)
    labels = np.arange(len(x)) % 3  # the Hessian is the same whatever the labels are
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(w)
        with tf.GradientTape() as inner:
            inner.watch(w)
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, phi @ w))
        gradient = inner.gradient(loss, w)
    hessian = outer.jacobian(gradient, w).numpy().reshape(w.shape[0] * 3, -1)
    dense = np.linalg.inv(hessian + tau * np.eye(len(hessian)))
    right = [np.kron(p, np.eye(3)) @ dense @ np.kron(p, np.eye(3)).T for p in phi[:, None]]
    np.testing.assert_allclose(posterior.covariance(x), right, rtol=1e-5, atol=1e-8)
    logdet = np.linalg.slogdet(hessian / tau + np.eye(len(hessian)))[1]
    assert posterior.log_evidence() == pytest.approx(-0.5 * (logdet + tau * np.square(w).sum()), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_kronecker_form_is_that_of_dense_algebra(seed):
    model, x = trained(seed)
    phi, f = features(model, x), model(x).numpy().astype(np.float64)
    p = np.exp(f) / np.exp(f).sum(1, keepdims=True)
    a = phi.T @ phi / len(x)
    b = np.mean([np.diag(q) - np.outer(q, q) for q in p], axis=0)
    dense = np.linalg.inv(len(x) * np.kron(a, b) + 0.2 * np.eye(12))
    right = [np.kron(q, np.eye(3)) @ dense @ np.kron(q, np.eye(3)).T for q in phi[:, None]]
    posterior = LastLayerLaplace(model, x, 0.2, hessian="kronecker")
    np.testing.assert_allclose(posterior.covariance(x), right, rtol=1e-4, atol=1e-8)
    # A single eigenvalue of B and of p's covariance is 0: the full form is another one.
    assert np.abs(LastLayerLaplace(model, x, 0.2).covariance(x) / right - 1).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("hessian", ["full", "kronecker"])
@pytest.mark.parametrize("seed", range(2))
def test_draws_have_the_mean_and_covariance(seed, hessian):
    model, x = trained(seed)
    before = [weight.copy() for weight in model.get_weights()]
    posterior = LastLayerLaplace(model, x, 1.0, hessian=hessian)
    assert isinstance(posterior, Posterior) and posterior.members is None
    outputs = features(model, x[:5]) @ np.stack([drawn(posterior, number) for number in range(DRAWS)])
    np.testing.assert_allclose(sample_outputs(posterior, x[:5], 3, seed=1), outputs[:3], rtol=1e-4, atol=1e-5)
    mean, off = outputs.mean(0), outputs - outputs.mean(0)
    found = np.einsum("snc,snd->ncd", off, off) / DRAWS
    right = posterior.covariance(x[:5])
    variances = np.einsum("ncc->nc", right)
    assert np.abs((mean - model(x[:5])) / np.sqrt(variances / DRAWS)).max() < 5
    # The variance of a covariance's estimate (Wishart): (s_cc s_dd + s_cd^2) / S.
    error = np.sqrt((variances[:, :, None] * variances[:, None] + right**2) / DRAWS)
    assert np.abs((found - right) / error).max() < 5
    with pytest.raises(KeyError), posterior.fixed(0, 3):
        raise KeyError
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("hessian", ["full", "kronecker"])
@pytest.mark.parametrize("seed", range(3))
def test_gaussian_regression_is_exact(seed, hessian):
    """With the last layer at its optimum, the posterior and the evidence are those of Bayesian linear regression."""
    model, x = trained(seed, kl.Dense(2))
    phi, tau, noise = features(model, x), 0.4, 0.6
    y = np.random.default_rng(9 + seed).normal(size=(len(x), 2))
    precision = phi.T @ phi / noise**2 + tau * np.eye(4)
    mode = np.linalg.solve(precision, phi.T @ y / noise**2)
    model.layers[-1].set_weights([mode[:-1], mode[-1]])
    posterior = LastLayerLaplace(model, x, tau, noise=noise, hessian=hessian)
    variance = np.einsum("nd,de,ne->n", phi, np.linalg.inv(precision), phi)
    np.testing.assert_allclose(posterior.covariance(x), variance[:, None, None] * np.eye(2), rtol=1e-5, atol=1e-8)
    marginal = scipy.stats.multivariate_normal(np.zeros(len(x)), noise**2 * np.eye(len(x)) + phi @ phi.T / tau)
    likelihood = scipy.stats.norm(phi @ mode, noise).logpdf(y).sum()
    assert posterior.log_evidence() + likelihood == pytest.approx(marginal.logpdf(y.T).sum(), rel=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_the_best_precision_has_the_largest_evidence(seed):
    model, x = trained(seed)
    posterior = LastLayerLaplace(model, x)
    grid = np.geomspace(1e-3, 1e3, 2001)
    best = grid[np.argmax([posterior.log_evidence(tau) for tau in grid])]
    assert posterior.precision == pytest.approx(best, rel=0.01)


def test_large_layers_take_the_kronecker_form_and_images_are_scaled():
    keras.utils.set_random_seed(0)
    model = stack((5, 5, 1), kl.Conv2D(100, 5), kl.Flatten(), kl.Dense(20))
    images = np.random.default_rng(0).integers(0, 256, (30, 5, 5, 1), np.uint8)
    posterior = LastLayerLaplace(model, images)
    assert posterior.features == 101 and posterior._right is not None
    right = LastLayerLaplace(model, images / np.float32(255), posterior.precision)
    np.testing.assert_allclose(posterior.covariance(images[:2]), right.covariance(images[:2] / np.float32(255)))


def test_what_has_no_last_layer_to_draw_is_refused():
    x = np.zeros((2, 4), np.float32)
    for layers, message in (
        ((kl.Dense(3), kl.Softmax()), "expected a last layer Dense, found Softmax"),
        ((kl.Dense(3, "softmax"),), "expected no activation in dense.*, found softmax"),
        ((kl.Reshape((3, 1)), kl.Dense(2)), r"with an input \[N, D\]"),
    ):
        with pytest.raises(ValueError, match=message):
            LastLayerLaplace(trained(0, *layers)[0], x)
    model, _ = trained(0)
    with pytest.raises(ValueError, match="expected precision > 0 or None, found 0"):
        LastLayerLaplace(model, x, 0)
    model.layers[-1].set_weights([np.zeros((3, 3)), np.zeros(3)])
    with pytest.raises(ValueError, match="the evidence has no maximum"):
        LastLayerLaplace(model, x)
    with pytest.raises(ValueError, match="found 'diagonal'"):
        LastLayerLaplace(model, x, hessian="diagonal")

    class Own(keras.Model):
        pass

    with pytest.raises(ValueError, match="one output, found own"):
        LastLayerLaplace(Own(name="own"), x)
