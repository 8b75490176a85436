"""What would give a wrong number without a word is refused, or does what was meant."""

import copy
import pickle

from helpers import data
from helpers.fit import fit
from helpers.inference import predict, sample_outputs
from helpers.methods.dropout import MCDropout
from helpers.methods.ensemble import Ensemble
from helpers.methods.ivon import IVON
from helpers.methods.laplace import LastLayerLaplace
from helpers.methods.moped import start_from_twin
from helpers.methods.swag import SWAG
from helpers.methods.temperature import best_temperature, log_probabilities, rescale
from helpers.runs import Run

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.support.networks import stack

kl = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def network(*end, seed=0):
    keras.utils.set_random_seed(seed)
    return stack((4,), kl.Dense(5, "relu"), *(end or [kl.Dense(3)]))


def train(model, optimizer, x=X, y=Y, **how):
    return fit(model, x, y, batch_size=len(x), optimizer=optimizer, run=Run(progress=False), **{"epochs": 2, **how})


@pytest.mark.parametrize(
    "layers, shape, x",
    [
        ([kl.Rescaling(1 / 255), kl.Flatten()], (4, 4, 1), RNG.integers(0, 256, (8, 4, 4, 1))),
        ([kl.Embedding(256, 2), kl.Flatten()], (3,), RNG.integers(0, 256, (8, 3))),
        ([], (3,), RNG.integers(0, 256, (8, 3))),
        ([kl.Flatten()], (4, 4, 1), RNG.integers(0, 2, (8, 4, 4, 1))),
    ],
)
def test_uint8_that_training_and_prediction_would_take_in_two_ways_is_refused(layers, shape, x):
    model = stack(shape, *layers, kl.Dense(2))
    with pytest.raises(ValueError, match=r"astype\('float32'\)"):
        train(model, None, x.astype(np.uint8), np.arange(8) % 2, epochs=1)


def test_a_batch_of_uint8_images_is_seen_alike_in_training_and_prediction():
    x = RNG.integers(0, 256, (8, 4, 4, 1)).astype(np.uint8)
    model = stack((4, 4, 1), kl.Flatten(), kl.Dense(2))
    train(model, keras.optimizers.legacy.SGD(0.0), x, np.arange(8) % 2, epochs=1)
    np.testing.assert_allclose(sample_outputs(model, x)[0], model(data.normalise(x)).numpy(), atol=1e-6)


def test_laplace_of_one_output_needs_the_noise():
    with pytest.raises(ValueError, match="which is no softmax. Give the noise"):
        LastLayerLaplace(network(kl.Dense(1)), X, 1.0)
    assert LastLayerLaplace(network(kl.Dense(1)), X, 1.0, noise=0.5).covariance(X).shape == (30, 1, 1)


def test_laplace_names_an_example_that_is_not_finite_and_an_activation_without_a_name():
    x = X.copy()
    x[7, 1] = np.nan
    with pytest.raises(ValueError, match="features of example 7 are not finite"):
        LastLayerLaplace(network(), x, 1.0)
    with pytest.raises(ValueError, match="expected no activation"):
        LastLayerLaplace(network(kl.Dense(3, activation=kl.Softmax())), X, 1.0)


def test_a_copy_of_laplace_has_the_draws_of_the_original_and_others_say_what_to_send():
    laplace, ivon = LastLayerLaplace(network(), X, 1.0), IVON(0.1, len(X))
    model = network(seed=1)
    train(model, ivon)
    for other in (copy.deepcopy(laplace), pickle.loads(pickle.dumps(laplace))):
        np.testing.assert_allclose(sample_outputs(other, X, 4), sample_outputs(laplace, X, 4), rtol=1e-5)
    for posterior in (MCDropout(network(kl.Dropout(0.5), kl.Dense(3))), ivon.posterior(model)):
        with pytest.raises(TypeError, match="cannot be copied or sent"):
            copy.deepcopy(posterior)


def test_laplace_of_a_model_that_was_trained_on_is_refused():
    model = network()
    laplace = LastLayerLaplace(model, X, 1.0)
    sample_outputs(laplace, X, 2)
    train(model, None)
    with pytest.raises(ValueError, match="was trained after its LastLayerLaplace was made"):
        sample_outputs(laplace, X, 2)


def test_a_second_run_of_ivon_has_no_step_of_a_momentum_that_counts_as_new():
    model, optimizer = network(), IVON(0.1, len(X), beta1=0.9)
    train(model, optimizer)
    optimizer.build(model.trainable_variables)
    assert float(tf.reduce_max(tf.abs(optimizer.momentum))) == 0 < float(tf.math.reduce_std(optimizer.hessian))
    before = [w.copy() for w in model.get_weights()]
    train(model, optimizer, epochs=1)
    first = max(np.abs(a - b).max() for a, b in zip(before, model.get_weights(), strict=True))
    fresh = network()
    fresh.set_weights(before)
    train(fresh, IVON(0.1, len(X), beta1=0.9), epochs=1)
    other = max(np.abs(a - b).max() for a, b in zip(before, fresh.get_weights(), strict=True))
    assert first < 2 * other  # with the old momentum it was nine times as long


def test_the_posterior_of_an_ivon_whose_model_another_one_has_trained_is_refused():
    model, first, second = network(), IVON(0.1, len(X)), IVON(0.1, len(X))
    train(model, first)
    posterior = first.posterior(model)
    train(model, second)
    with pytest.raises(ValueError, match="Another IVON has trained"):
        predict(posterior, X, 2)
    assert predict(second.posterior(model), X, 2).shape == (2, 30, 3)
    train(model, first)
    assert predict(posterior, X, 2).shape == (2, 30, 3)


@pytest.mark.parametrize("method", [lambda m: train(m, IVON(0.1, 30)), SWAG, lambda m: LastLayerLaplace(m, X, 1.0)])
def test_weights_with_a_constraint_are_refused(method):
    with pytest.raises(ValueError, match=r"without a constraint, .* found one on \['.*kernel:0'\]"):
        method(network(kl.Dense(3, kernel_constraint=keras.constraints.NonNeg())))


@pytest.mark.parametrize("end", [kl.Dense(3, "softmax"), kl.Dense(3, "sigmoid"), kl.Softmax()])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_outputs_that_are_no_logits_are_refused_whatever_else_is_in_them(end, policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        model = stack((4,), kl.Dense(3, "relu"), type(end).from_config(end.get_config()))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    x = X.copy()
    x[3] = np.nan
    for inputs in (X, x):
        with pytest.raises(ValueError, match="expected logits, found outputs that are probabilities already"):
            predict(model, inputs)


def test_temperatures_tell_logits_from_probabilities():
    logits = RNG.normal(size=(30, 3)) + 3 * np.eye(3)[Y]
    p = rescale(logits, 1.0)
    assert best_temperature(log_probabilities(p), Y) == pytest.approx(best_temperature(logits, Y), rel=1e-6)
    with pytest.raises(ValueError, match="were logits passed without a softmax"):
        log_probabilities(logits)
    for call in (lambda: best_temperature(p, Y), lambda: rescale(p, 2.0)):
        with pytest.raises(ValueError, match="expected logits, found probabilities"):
            call()


def test_members_with_other_outputs_or_the_same_model_are_refused():
    with pytest.raises(ValueError, match=r"outputs of one shape, found \[1\] after \[3\]"):
        sample_outputs(Ensemble([network(), network(kl.Dense(1))]), X)
    model = network()
    with pytest.raises(ValueError, match="two members have the same model"):
        Ensemble([model, network(seed=1), model])


@pytest.mark.parametrize("rate", [np.float32(0.5), np.float64(0.5), 0.5])
def test_every_kind_of_number_is_a_rate_of_dropout(rate):
    posterior = MCDropout(network(kl.Dropout(rate), kl.Dropout(1e-4), kl.Dense(3)))
    assert sample_outputs(posterior, X, 8).std(axis=0).max() > 0.05
    with pytest.raises(ValueError, match="drop inside of their own call"):
        MCDropout(stack((5, 4), kl.GRU(3, dropout=rate), kl.Dropout(0.5), kl.Dense(3)))


def test_dropout_in_time_distributed_is_refused_and_a_layer_without_the_argument_works():
    class Always(kl.Dropout):
        def call(self, inputs):
            return super().call(inputs, training=True)

    with pytest.raises(ValueError, match="drops anew at each time step"):
        MCDropout(stack((5, 4), kl.TimeDistributed(kl.Dropout(0.5)), kl.Dropout(0.5), kl.Dense(3)))
    assert sample_outputs(MCDropout(network(Always(0.5), kl.Dense(3))), X, 8).std(axis=0).max() > 0.05


def test_a_layer_that_adapts_again_is_read_anew():
    normalise = kl.Normalization()
    normalise.adapt(X)
    model = stack((4,), normalise, kl.Dense(3))
    sample_outputs(model, X)
    normalise.adapt(5 + 3 * X)
    np.testing.assert_allclose(sample_outputs(model, X)[0], model(X).numpy(), atol=1e-5)


def test_moped_takes_twins_with_other_layers_and_without_biases():
    from helpers.layers import DenseFlipout

    def pair(dense, **end):
        return stack((4,), dense(5, name="a"), kl.BatchNormalization(name="b"), dense(2, name="c", **end))

    twin, model = pair(kl.Dense), pair(DenseFlipout)
    start_from_twin(model, twin)
    np.testing.assert_array_equal(model.layers[-1].kernel_posterior.distribution.loc, twin.layers[-1].kernel)
    with pytest.raises(ValueError, match="c has a bias and its twin has none, or the other way round"):
        start_from_twin(pair(DenseFlipout), pair(kl.Dense, use_bias=False))
    bare = pair(DenseFlipout, bias_posterior_fn=None)
    start_from_twin(bare, pair(kl.Dense, use_bias=False))


def test_the_number_of_draws_is_a_whole_number():
    with pytest.raises(TypeError, match="integer"):
        sample_outputs(network(), X, 1e1)
