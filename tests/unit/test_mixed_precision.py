"""Training and predicting in half precision: what stays float32, and that the results do not change."""

import json

from helpers import data, models
from helpers.elbo import NegativeElbo, constant
from helpers.files import read_csv
from helpers.fit import fit, loss_scale
from helpers.inference import predict, sample_outputs
from helpers.layers import (
    Convolution2DFlipout,
    Convolution2DReparameterization,
    DenseFlipout,
    DenseReparameterization,
    seed_noise,
)
from helpers.runs import Run, restore_model
from helpers.train import command as train

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.support.layers import layer_for

HALF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # relative errors of rounding


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist", quiet=True)


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("name", models.NAMES)
def test_parameters_kl_and_logits_are_float32_and_the_kl_is_the_same_to_the_bit(name, precision):
    x, y = np.random.default_rng(0).random((4, *models.record(name).input_shape), np.float32), np.arange(4)
    results = []
    for mixed in ("none", precision):
        model = models.build(name, seed=3, mixed_precision=mixed)
        seed_noise(model, 4)
        with tf.GradientTape() as tape:
            _, nll, kl, outputs, _ = NegativeElbo()(model, x, y, num_examples=100)
        kernels = [v for v in model.trainable_variables if "posterior" in v.name]
        results.append([nll, kl, outputs, *tape.gradient(kl, kernels)])
        assert {v.dtype for v in model.trainable_variables} == {tf.float32} and outputs.dtype == tf.float32
        computing = [layer.compute_dtype for layer in model.layers if layer.weights]
        assert computing == ["float32" if mixed == "none" else precision] * (len(computing) - 1) + ["float32"]
    (nll, *exact), (other, *found) = results
    assert float(other) == pytest.approx(float(nll), rel=0.05)
    for one, two in zip(exact[:1] + exact[2:], found[:1] + found[2:], strict=True):
        if one is not None:
            np.testing.assert_array_equal(one, two)
    assert keras.mixed_precision.global_policy().name == "float32"


def test_a_model_that_cannot_be_built_leaves_no_policy_behind():
    with pytest.raises(ValueError, match="mixed_float8"):
        models.build("CNN_FC", mixed_precision="float8")
    with pytest.raises((ValueError, TypeError)):
        models.build("CNN_FC", num_classes="ten", mixed_precision="float16")
    assert keras.mixed_precision.global_policy().name == "float32"


CASES = [
    (DenseFlipout, None),
    (DenseReparameterization, None),
    (Convolution2DReparameterization, (4, 3, 12, "same", 1)),
    *((Convolution2DFlipout, case) for case in ((1, 5, 12, "same", 1), (4, 3, 12, "same", 1), (4, 3, 9, "valid", 2))),
]


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("cls, case", CASES)
def test_a_layer_computes_in_half_precision_what_it_does_in_float32(cls, case, precision):
    """Of equal noise, each output is the sum of at most 100 products that are rounded, and so is each gradient.

    Some processors also round the sums, whose errors then add up as the square root of their number, 10.
    """
    results = []
    for dtype in ("float32", keras.mixed_precision.Policy(f"mixed_{precision}")):
        layer, x = layer_for(cls, case, dtype=dtype, seed=2)
        with tf.GradientTape() as tape:
            outputs = layer(x)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 2)
        results.append([outputs, *tape.gradient(loss, layer.trainable_variables)])
        computed = outputs.dtype.name
    assert computed == precision
    for exact, found in zip(*results, strict=True):
        apart = np.linalg.norm(np.asarray(found, np.float32) - exact) / np.linalg.norm(exact)
        assert 0 < apart < 10 * HALF[precision]


def test_a_kl_estimated_from_the_draw_is_computed_in_float32_and_a_clone_keeps_its_policy():
    def estimate(posterior, prior, draw):
        return posterior.log_prob(draw) - prior.log_prob(draw)

    policy = keras.mixed_precision.Policy("mixed_bfloat16")
    layer = DenseReparameterization(3, kernel_divergence_fn=estimate, dtype=policy)
    model = keras.models.clone_model(keras.Sequential([keras.layers.InputLayer((5,)), layer]))
    assert model(np.ones((2, 5), np.float32)).dtype == tf.bfloat16
    assert model.losses[0].dtype == tf.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BNN_FC_flip", "BNN_FC_nonflip"])
def test_training_ends_where_it_does_in_float32(digits, name):
    """Over three seeds: a mixed model's loss and predictions are closer to float32's than those of another seed."""
    ends = {precision: [] for precision in models.PRECISIONS}
    for seed in range(3):
        for precision, found in ends.items():
            model = models.build(name, seed=seed, mixed_precision=precision)
            how = {"epochs": 3, "batch_size": 50, "optimizer": keras.optimizers.legacy.Adam(3e-3)}
            how["loss"] = NegativeElbo(kl_weight=constant(0.05))
            last = fit(model, digits.x_train[:1000], digits.y_train[:1000], seed=seed, **how).epochs[-1]
            draws = predict(model, digits.x_test[:200], 10)
            assert draws.dtype == np.float32 and np.abs(draws.sum(axis=-1) - 1).max() < 1e-6
            found.append((last["nll"], last["kl"], draws.mean(axis=0)))
    nll, kl = (np.array([[run[i] for run in runs] for runs in ends.values()]) for i in (0, 1))
    assert nll[0].max() < 1.5  # it has learned: the start is at 2.3
    for values in (nll, kl):
        apart = np.abs(values[1:] - values[0]).max()
        assert 0 < apart < 0.5 * np.std(values[0], ddof=1)
    exact, *mixed = (np.array([run[2] for run in runs]) for runs in ends.values())
    between_seeds = np.abs(exact - np.roll(exact, 1, axis=0)).mean()
    assert all(0 < np.abs(found - exact).mean() < 0.2 * between_seeds for found in mixed)


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("name", ["BNN_FC_flip", "BNN_conv_flip", "BNN_conv_nonflip", "CNN_conv"])
def test_the_same_posterior_predicts_the_same(name, precision):
    exact, mixed = (models.build(name, seed=1, mixed_precision=mixed) for mixed in ("none", precision))
    for variable in exact.trainable_variables:
        if "untransformed_scale" in variable.name:
            variable.assign(tf.fill(variable.shape, -2.0))
    mixed.set_weights(exact.get_weights())
    x = np.random.default_rng(0).random((5, 28, 28, 1), np.float32)
    outputs, found = (sample_outputs(model, x, 4, seed=2) for model in (exact, mixed))
    assert 0 < np.linalg.norm(found - outputs) < 4 * HALF[precision] * np.linalg.norm(outputs)
    assert predict(mixed, x, 4).dtype == np.float32


def test_a_step_that_overflows_is_left_out_and_the_scale_adapts(monkeypatch):
    monkeypatch.setattr(loss_scale, "GROWTH_STEPS", 3)
    scale, value, optimizer = loss_scale.LossScale(), tf.Variable([1.0]), keras.optimizers.legacy.SGD(0.5)
    apply = tf.function(lambda gradient: scale.apply(optimizer, [gradient * scale.scale], [value]))
    found = []
    for gradient in (0.2, float("inf"), 0.2, 0.2, 0.2, float("nan"), 0.0):
        apply(tf.constant([gradient]))
        found.append((float(value[0]), float(scale.scale) / loss_scale.INITIAL))
    values, scales = zip(*found, strict=True)
    assert values == pytest.approx([0.9, 0.9, 0.8, 0.7, 0.6, 0.6, 0.6]) and scales == (1, 0.5, 0.5, 0.5, 1, 0.5, 0.5)
    assert int(optimizer.iterations) == 7
    scale.check()
    scale.scale.assign(loss_scale.SMALLEST / 2)
    with pytest.raises(FloatingPointError, match="bfloat16"):
        scale.check()


def start(digits, epochs=2, **circumstances):
    """A model whose first steps overflow, trained in these circumstances, and its history."""
    model = models.build("BNN_FC_flip", seed=1, mixed_precision="float16")
    how = {"batch_size": 50, "epochs": epochs, "run": Run(checkpoint_every=4, **circumstances)}
    return model, fit(model, digits.x_train[:1000], digits.y_train[:1000], seed=5, **how)


def test_steps_left_out_count_and_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(
    digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(loss_scale, "INITIAL", 2.0**30)
    before = models.build("BNN_FC_flip", seed=1).get_weights()
    whole, history = start(digits, folder=tmp_path / "whole")
    model, _ = start(digits, folder=tmp_path / "parts", max_steps=4)
    for one, two in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, two)  # so far all steps overflow
    resumed, again = start(digits, folder=tmp_path / "parts", resume=True)
    for one, two in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert history.epochs[-1]["step"] == again.epochs[-1]["step"] == 40
    assert history.epochs[-1]["loss"] == again.epochs[-1]["loss"] < history.epochs[0]["loss"]
    path = str(tmp_path / "parts" / "checkpoints" / "step-40")
    assert tf.train.load_variable(path, "optimizer/iter/.ATTRIBUTES/VARIABLE_VALUE") == 40
    assert tf.train.load_variable(path, "loss_scale/scale/.ATTRIBUTES/VARIABLE_VALUE") < 2.0**27
    # Weights go from one precision to another.
    restore_model(other := models.build("BNN_FC_flip"), tmp_path / "whole")
    np.testing.assert_array_equal(other.get_weights()[0], whole.get_weights()[0])


def test_a_run_without_a_single_step_stops(digits, monkeypatch):
    monkeypatch.setattr(loss_scale, "SMALLEST", 2.0**29)
    monkeypatch.setattr(loss_scale, "INITIAL", 2.0**40)
    with pytest.raises(FloatingPointError, match="left out"):
        start(digits)


def test_the_command_trains_in_half_precision_and_resumes_in_no_other(tmp_path, capsys):
    given = ["--model=BNN_FC_flip", f"--output={tmp_path}", "--num_monte_carlo=2"]

    def run(*more):
        try:
            return train.main([*given, *more])
        finally:
            for name in train.FLAGS:
                train.FLAGS[name].unparse()

    assert run("--mixed_precision=bfloat16", "--iterations=2") == 0
    assert run("--iterations=3", "--resume") == 1
    assert "its run had mixed_precision = 'bfloat16'" in capsys.readouterr().err
    assert run("--mixed_precision=BFLOAT16", "--iterations=4", "--resume") == 0
    assert read_csv(tmp_path / "BNN_FC_flip" / "history.csv")[-1]["step"] == 4
    assert run("--iterations=2", "--overwrite") == 0
    assert "mixed_precision" not in json.loads((tmp_path / "BNN_FC_flip" / "settings.json").read_text())
    assert run("--mixed_precision=float16", "--iterations=3", "--resume") == 1
