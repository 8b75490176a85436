"""Random models: predictions equal a plain loop over the same draws, and the KL is that of the variables.

In the plain loop the test writes each draw into the model itself.

`BNN_EXAMPLES=2000` asks for as many random models; a usual run tries a few.
"""

import os
import tempfile
from functools import partial

from helpers import layers as own
from helpers.inference import sample_outputs
from helpers.inference.networks import compile_networks
from helpers.inference.posterior import drawable_layers
from helpers.layers.divergence import kl_divergence

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
    """Return a function that makes a Bayesian layer."""
    layer, activation = draw(st.sampled_from(DENSE)), ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))]
    units, biased = draw(st.integers(1, 4)), draw(st.booleans())
    # Variables belong to the function that made them, so each layer gets functions of its own.
    made = tfpl.default_mean_field_normal_fn
    return lambda: layer(
        units,
        activation=activation,
        bias_posterior_fn=made() if biased else None,
        bias_prior_fn=tfpl.default_multivariate_normal_fn if biased and units > 2 else None,
    )


@st.composite
def models(draw):
    """Return (function that builds a model, inputs). Two calls build equal models with other weights."""
    shape, first = (5,), list
    if draw(st.booleans()):
        shape, first = (4, 3), SEQUENCE[draw(st.sampled_from(sorted(SEQUENCE)))]
    makers = []
    for _ in range(draw(st.integers(1, 4))):
        plain = PLAIN[draw(st.sampled_from(sorted(PLAIN)))]
        makers.append(bayesian(draw) if draw(st.booleans()) else plain)
    makers.append(bayesian(draw))
    kind = draw(st.sampled_from(["sequential", "skips", "shared", "subclassed", "nested"]))
    x = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(5, *shape)).astype(np.float32)
    if len(shape) == 2:
        x[:, draw(st.integers(2, 3)) :] = 0.0
    return partial(build, kind, shape, first, makers, x), x


def build(kind, shape, first, makers, x):
    parts = [*first(), *(make() for make in makers)]
    inputs = keras.Input(shape)
    if kind == "subclassed":
        model = Loop(parts)
    elif kind == "nested":
        half = len(parts) // 2
        model = keras.Sequential([kl.InputLayer(shape), *parts[:half], keras.Sequential(parts[half:])])
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
    model(x)
    for variable in model.trainable_variables:
        if "untransformed_scale" in variable.name:
            variable.assign(tf.fill(variable.shape, -1.0))
    return model


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


def kl_by_hand(model):
    """Return the sum over all pairs of variables, each of which is a factorised Gaussian with the prior N(0, 1)."""
    total, named = 0.0, {variable.name: variable.numpy().astype(float) for variable in model.trainable_variables}
    assert len(named) == len(model.trainable_variables)
    for name, loc in named.items():
        # TFP gives a bias one value and no prior, unless it is asked for more.
        name_of_scale = name.removesuffix("_loc:0") + "_untransformed_scale:0"
        if name_of_scale in named and ("kernel" in name or loc.size > 2):
            scale = np.log1p(np.exp(named[name_of_scale]))
            total += 0.5 * np.sum(scale**2 + loc**2 - 1 - 2 * np.log(scale))
    return total


def check(make, x):
    model = make()
    found, right = sample_outputs(model, x, 3, seed=4), plain_loop(model, x, 3, 4)
    assert np.isfinite(right).all()
    close = {"rtol": 2e-4, "atol": 2e-4 * max(1.0, np.abs(right).max())}
    np.testing.assert_allclose(found, right, **close)
    np.testing.assert_allclose(found, sample_outputs(model, x, 3, seed=4, budget_mb=1e-3), **close)
    model(x, training=True)
    np.testing.assert_allclose(kl_divergence(model), kl_by_hand(model), rtol=1e-4)
    # Weights that are saved and loaded give the same numbers, also in a model that has predicted with others.
    other = make()
    sample_outputs(other, x, 3, seed=4)
    with tempfile.TemporaryDirectory() as folder:
        path = tf.train.Checkpoint(model=model).write(f"{folder}/weights")
        tf.train.Checkpoint(model=other).read(path).assert_existing_objects_matched()
    np.testing.assert_allclose(sample_outputs(model, x, 3, seed=4), sample_outputs(other, x, 3, seed=4), rtol=1e-6)


@pytest.mark.slow
@settings(
    max_examples=int(os.environ.get("BNN_EXAMPLES", 3)), deadline=None, database=None,
    suppress_health_check=list(HealthCheck), derandomize="BNN_EXAMPLES" not in os.environ,
)  # fmt: skip
@given(models())
def test_random_models_predict_as_the_plain_loop_and_have_the_kl_of_their_variables(found):
    keras.backend.clear_session()
    check(*found)
