"""Random models: `sample_outputs` equals a plain loop in which the test writes each draw into the model itself.

`BNN_EXAMPLES=2000` asks for as many random models; a usual run tries a few.
"""

import os

from helpers import layers as own
from helpers.inference import sample_outputs
from helpers.inference.networks import compile_networks
from helpers.inference.posterior import drawable_layers

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras
from hypothesis import HealthCheck, given, settings

tfpl, kl = tfp.layers, keras.layers
pytestmark = pytest.mark.filterwarnings("ignore")
ACTIVATIONS = {
    "none": None, "relu": "relu", "tanh": tf.tanh, "leaky": lambda t: tf.nn.leaky_relu(t, alpha=0.6),
    "own": lambda t: t / (1.0 + tf.abs(t)), "softmax": "softmax",
}  # fmt: skip
DENSE = [
    tfpl.DenseFlipout, tfpl.DenseReparameterization, tfpl.DenseLocalReparameterization, own.DenseFlipout,
    own.DenseReparameterization,
]  # fmt: skip
PLAIN = {
    "dense": lambda: kl.Dense(4, activation="elu"), "leaky": lambda: kl.LeakyReLU(0.4), "elu": lambda: kl.ELU(0.7),
    "dropout": lambda: kl.Dropout(0.5), "noise": lambda: kl.GaussianNoise(1.0), "norm": kl.LayerNormalization,
    "batch": kl.BatchNormalization, "lambda": lambda: kl.Lambda(tf.sin), "prelu": lambda: kl.PReLU("ones"),
}  # fmt: skip
SEQUENCE = {
    "gru": lambda: [kl.GRU(4)], "lstm": lambda: [kl.Bidirectional(kl.LSTM(2))],
    "masked": lambda: [kl.Masking(), kl.LSTM(4)], "masked mean": lambda: [kl.Masking(), kl.GlobalAveragePooling1D()],
    "conv": lambda: [tfpl.Convolution1DFlipout(4, 2, activation="relu"), kl.Flatten()],
    "conv shared": lambda: [tfpl.Convolution1DReparameterization(3, 2, padding="same"), kl.GlobalMaxPooling1D()],
    "steps": lambda: [kl.TimeDistributed(tfpl.DenseReparameterization(2)), kl.Flatten()],
}  # fmt: skip


class Loop(keras.Model):
    """A model with a `call` of its own, with a sum and a skip."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def call(self, inputs):
        outputs = inputs
        for part in self.parts:
            new = part(outputs)
            outputs = new + outputs if new.shape[1:] == outputs.shape[1:] else new
        return outputs


def bayesian(draw):
    layer, activation = draw(st.sampled_from(DENSE)), ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))]
    bias = draw(st.sampled_from([tfpl.default_mean_field_normal_fn(), None]))
    return layer(draw(st.integers(1, 4)), activation=activation, bias_posterior_fn=bias)


@st.composite
def models(draw):
    """Return (model, inputs)."""
    shape, parts = (5,), []
    if draw(st.booleans()):
        shape, parts = (4, 3), SEQUENCE[draw(st.sampled_from(sorted(SEQUENCE)))]()
    for _ in range(draw(st.integers(1, 4))):
        plain = PLAIN[draw(st.sampled_from(sorted(PLAIN)))]
        parts.append(bayesian(draw) if draw(st.booleans()) else plain())
    parts.append(bayesian(draw))
    inputs, kind = keras.Input(shape), draw(st.sampled_from(["sequential", "skips", "shared", "subclassed", "nested"]))
    if kind == "subclassed":
        model = Loop(parts)
    elif kind == "nested":
        outer = parts[: len(parts) // 2 + 1]
        model = keras.Sequential(
            [kl.InputLayer(shape), *outer, keras.Sequential(parts[len(outer) :] or [bayesian(draw)])]
        )
    elif kind == "sequential":
        model = keras.Sequential([kl.InputLayer(shape), *parts])
    else:
        outputs = inputs
        for part in parts:
            new = part(outputs)
            same = new.shape[1:] == outputs.shape[1:]
            if same and kind == "shared":
                new = part(new)  # the same layer again
            outputs = tf.nn.leaky_relu(new, alpha=0.3) + outputs if same and kind == "skips" else new
        model = keras.Model(inputs, outputs)
    x = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(5, *shape)).astype(np.float32)
    if len(shape) == 2:
        x[:, draw(st.integers(2, 3)) :] = 0.0
    model(x)
    for variable in model.trainable_variables:
        if "untransformed_scale" in variable.name:
            variable.assign(tf.fill(variable.shape, -1.0))
    return model, x


def plain_loop(model, x, draws, seed):
    """Write each draw into the means of narrow posteriors, and call the model itself."""
    layers = drawable_layers(*model.layers, model)
    weights = compile_networks(model, x).weights(seed, 0, draws)
    kept, results = model.get_weights(), []
    for network in range(draws):
        for layer, tensors in zip(layers, weights, strict=True):
            for variable in layer.trainable_variables:
                if "untransformed_scale" in variable.name:
                    variable.assign(tf.fill(variable.shape, -80.0))
            for part, tensor in zip(("kernel", "bias"), tensors, strict=False):
                posterior = getattr(layer, f"{part}_posterior").distribution
                posterior.loc.assign(tensor[network])
        results.append(model(x, training=False).numpy())
        model.set_weights(kept)
    return np.stack(results)


def check(model, x):
    found, right = sample_outputs(model, x, 3, seed=4), plain_loop(model, x, 3, 4)
    assert np.isfinite(right).all()
    np.testing.assert_allclose(found, right, rtol=2e-4, atol=2e-4 * max(1.0, np.abs(right).max()))
    np.testing.assert_allclose(found, sample_outputs(model, x, 3, seed=4, budget_mb=1e-3), rtol=2e-4, atol=1e-3)


@settings(
    max_examples=int(os.environ.get("BNN_EXAMPLES", 12)), deadline=None, database=None,
    suppress_health_check=list(HealthCheck), derandomize="BNN_EXAMPLES" not in os.environ,
)  # fmt: skip
@given(models())
def test_predictions_of_random_models_equal_the_plain_loop(found):
    keras.backend.clear_session()
    check(*found)
