"""The Laplace approximation of the last layer: a Gaussian around the trained weights, without any training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from helpers.inference import is_bayesian
from helpers.inference.inputs import inputs_of
from helpers.layers.noise import fold_in, stateless_normal
from helpers.methods.weights import assigned, network_seed, refuse_constraints

import numpy as np
import tensorflow as tf
import tf_keras as keras
from scipy.optimize import minimize_scalar
from scipy.special import softmax

FULL = 2000  # weights of the last layer up to which the full Hessian is used; eigh then takes some seconds
BATCH = 256  # examples at a time
PRECISIONS = (1e-6, 1e6)  # between which the best one is searched


class LastLayerLaplace:
    """The posterior N(w, (H + tau I)^-1) of the last layer's weights, around those of a trained network.

    All other layers keep their weights (MacKay 1992; Kristiadi, Hein and Hennig 2020, arXiv:2002.10118; Daxberger et
    al. 2021, arXiv:2106.14806). H is the Hessian of the summed NLL in the weights w of the last layer, whose bias
    counts as the weight of a feature that is 1. The outputs f = phi w are linear in w, so H is exactly the generalised
    Gauss-Newton matrix

        H = sum_n (phi_n phi_n^T) x Lambda_n,   Lambda_n = diag p_n - p_n p_n^T,

    x being the Kronecker product, and p = softmax f. With a Gaussian likelihood, Lambda = I / noise^2.
    The Kronecker-factored form replaces H by N A x B, where A is the mean of phi phi^T and B the mean of Lambda
    (Ritter, Botev and Barber 2018, section 3). It keeps tau outside of the factors, as Daxberger et al. do.

    A draw is w + (H + tau I)^-1/2 z with standard normal numbers z. The symmetric root depends on no choice of
    eigenvectors, so draws are the same on each platform up to rounding.

    Args:
      model: a built, trained, deterministic Keras model whose output is that of a Dense layer without activation.
      x: the training set [N, ...], as `predict` takes it.
      precision: tau > 0 of the prior N(0, 1/tau), in which N times a weight decay of the mean loss is contained; None
        takes the one with the largest `log_evidence`.
      noise: standard deviation of a Gaussian likelihood, in units of the targets; None is softmax classification.
        A model with a mean and a log variance (`elbo.gaussian_nll`) is neither, and cannot be told from two classes.
      hessian: "full", "kronecker", or None for the full one up to 2,000 weights.

    Attributes:
      precision: tau. It can be set to another value.
      features: the number of features with the constant one, D; the model has C outputs.

    Raises:
      ValueError: the model, the precision, the noise or the Hessian is none of these, or a feature is not finite.
    """

    members = None

    def __init__(
        self,
        model: keras.Model,
        x: Any,
        precision: float | None = None,
        *,
        noise: float | None = None,
        hessian: str | None = None,
    ):
        for name, value in (("precision", precision), ("noise", noise)):
            if value is not None and not 0 < value < np.inf:
                raise ValueError(f"expected {name} > 0 or None, found {value}")
        if hessian not in (None, "full", "kronecker"):
            raise ValueError(f'expected hessian "full", "kronecker" or None, found {hessian!r}')
        self.model, self._name = model, _last_layer(model).name
        refuse_constraints(self._layer.weights)
        self._mean = self._weights()
        self.features, outputs = self._mean.shape
        if outputs == 1 and noise is None:
            raise ValueError(
                f"{model.name} has one output, which is no softmax. Give the noise of a regression, or let a "
                "classifier of two classes end with keras.layers.Dense(2)."
            )
        full = hessian == "full" or hessian is None and self._mean.size <= FULL
        self._decompose(_curvature(self._inputs(x), self._mean, noise, full), full, outputs)
        self.precision = precision or self._best_precision()

    @property
    def _layer(self) -> keras.layers.Dense:
        return self.model.get_layer(self._name)  # a copy of this object has a model of its own

    def _weights(self) -> np.ndarray:
        """Return the last layer's weights [D, C], with the bias as the last row."""
        return np.concatenate([np.atleast_2d(weight).astype(np.float64) for weight in self._layer.get_weights()])

    def _decompose(self, curvature: tuple, full: bool, outputs: int) -> None:
        """Keep the eigenvalues of H [D, C] and the eigenvectors, those of H or those of A and of B."""
        if full:
            values, vectors = np.linalg.eigh(curvature[0])
            self._left, self._right = vectors, None
        else:
            count, a, b = curvature
            (a, self._left), (b, self._right) = np.linalg.eigh(a), np.linalg.eigh(b)
            values = count * np.maximum(a, 0)[:, None] * np.maximum(b, 0)
        # Rounding makes some of the eigenvalues that are zero negative.
        self._values = np.maximum(values, 0).reshape(self.features, outputs)

    def _inputs(self, x: Any) -> Iterator[np.ndarray]:
        """Yield the features phi [n, D] of batches of examples."""
        below = keras.Model(self.model.inputs, self._layer.input)
        x = inputs_of(self.model, x)
        for start in range(0, len(tf.nest.flatten(x)[0]), BATCH):
            part = tf.nest.map_structure(lambda array, start=start: tf.constant(array[start : start + BATCH]), x)
            phi = below(part, training=False).numpy().astype(np.float64)
            if not np.isfinite(phi).all():
                first = start + int(np.argmin(np.isfinite(phi).all(axis=1)))
                raise ValueError(f"the features of example {first} are not finite. Is there a NaN in x?")
            yield np.concatenate([phi, np.ones([len(phi), self.features - phi.shape[1]])], axis=1)

    def log_evidence(self, precision: float | None = None) -> float:
        """Return the logarithm of the marginal likelihood, in nats, without the log-likelihood at the weights w.

        This is -tau |w|^2 / 2 + P log(tau) / 2 - log det(H + tau I) / 2 for P weights (MacKay 1992, where it is the
        logarithm of the Occam factor). The part that is left out does not depend on tau.

        Args:
          precision: tau; None is that of this posterior.
        """
        tau = precision or self.precision
        logs = np.log(tau) - np.log(self._values + tau)
        return float(0.5 * (logs.sum() - tau * np.square(self._mean).sum()))

    def _best_precision(self) -> float:
        best = minimize_scalar(lambda log: -self.log_evidence(np.exp(log)), bounds=np.log(PRECISIONS), method="bounded")
        if np.abs(best.x - np.log(PRECISIONS)).min() < 0.01:
            raise ValueError(
                f"the evidence has no maximum for a precision from {PRECISIONS[0]:g} to {PRECISIONS[1]:g}, because the "
                "weights are nearly zero or very large. Give the precision of the prior."
            )
        return float(np.exp(best.x))

    def covariance(self, x: Any) -> np.ndarray:
        """Return the covariance of the outputs of each example, [N, C, C]."""
        inverse, found = 1 / (self._values + self.precision), []
        for phi in self._inputs(x):
            if self._right is None:
                # The derivative of output c in the weights is phi in column c.
                turned = np.einsum("nd,dcp->ncp", phi, self._left.reshape(*self._mean.shape, -1), optimize=True)
                found.append((turned * inverse.ravel()) @ turned.transpose(0, 2, 1))
            else:
                # sum_k v_k v_k^T sum_j (u_j^T phi)^2 / (N a_j b_k + tau)
                scales = np.square(phi @ self._left) @ inverse
                found.append((self._right * scales[:, None]) @ self._right.T)
        return np.concatenate(found)

    @contextmanager
    def fixed(self, seed: int, number: int) -> Iterator[keras.Model]:
        """Yield the model with the last layer of network `number`.

        Raises:
          ValueError: the last layer has been trained since this posterior was made.
        """
        if not np.array_equal(self._weights(), self._mean):
            raise ValueError(f"{self.model.name} was trained after its LastLayerLaplace was made. Make a new one.")
        z = stateless_normal(fold_in(network_seed(seed, number), 0), self._mean.shape).numpy().astype(np.float64)
        root = 1 / np.sqrt(self._values + self.precision)
        if self._right is None:
            drawn = (self._left @ (root.ravel() * (self._left.T @ z.ravel()))).reshape(z.shape)
        else:
            drawn = self._left @ (root * (self._left.T @ z @ self._right)) @ self._right.T
        drawn = self._mean + drawn
        with assigned(self._layer.weights, [drawn[:-1], drawn[-1]] if self._layer.use_bias else [drawn]):
            yield self.model


def _last_layer(model: keras.Model) -> keras.layers.Dense:
    """Return the Dense layer whose output is that of the model, or say what the model has instead."""
    advice = "Let the model end with keras.layers.Dense(C), and apply the softmax in the loss."
    outputs = tf.nest.flatten(getattr(model, "outputs", None) or [])
    if len(outputs) != 1 or not hasattr(outputs[0], "_keras_history"):
        raise ValueError(f"expected a functional or sequential model with one output, found {model.name}. {advice}")
    layer = outputs[0]._keras_history.layer
    if type(layer) is not keras.layers.Dense:
        raise ValueError(f"expected a last layer Dense, found {type(layer).__name__} {layer.name}. {advice}")
    if layer.activation is not keras.activations.linear:
        found = getattr(layer.activation, "__name__", layer.activation)
        raise ValueError(f"expected no activation in {layer.name}, found {found}. {advice}")
    if len(layer.inbound_nodes) != 1 or len(layer.input.shape) != 2:
        raise ValueError(f"expected that {layer.name} is called once, with an input [N, D]. {advice}")
    if is_bayesian(model):
        raise ValueError(f"{model.name} has Bayesian layers, and so a posterior already. Take its deterministic twin.")
    return layer


def _curvature(features: Iterator[np.ndarray], weights: np.ndarray, noise: float | None, full: bool) -> tuple:
    """Return (H [D C, D C],), or (N, A [D, D], B [C, C])."""
    (d, c), count = weights.shape, 0
    h, a, b = np.zeros([d, c, d, c]) if full else None, np.zeros([d, d]), np.zeros([c, c])
    for phi in features:
        count += len(phi)
        p = softmax(phi @ weights, axis=1)
        if noise:
            second = np.broadcast_to(np.eye(c) / noise**2, [len(phi), c, c])
        else:
            second = p[:, :, None] * (np.eye(c) - p[:, None, :])
        if h is None:
            a, b = a + phi.T @ phi, b + second.sum(axis=0)
            continue
        for i in range(c):
            for j in range(c):
                h[:, i, :, j] += (phi * second[:, i, j, None]).T @ phi
    return (h.reshape(d * c, d * c),) if h is not None else (count, a / count, b / count)
