"""Targets, outputs and losses that readers bring to `fit`: the right numbers, or one error before the first step."""

from helpers.elbo import NegativeElbo, categorical_nll, gaussian_nll
from helpers.fit import fit
from helpers.layers import DenseFlipout
from helpers.runs import Run

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras

layers, tfd = keras.layers, tfp.distributions
RANDOM = np.random.default_rng(0)
X, LABELS = RANDOM.normal(size=(40, 5)).astype(np.float32), RANDOM.integers(0, 3, 40)
REAL = RANDOM.normal(size=40).astype(np.float32)


def dense(units, *more, **how):
    keras.utils.set_random_seed(0)
    return keras.Sequential([layers.InputLayer((5,)), layers.Dense(units, **how), *more], name="net")


def train(model, y, nll=categorical_nll, rate=0.0, x=X, **circumstances):
    run = Run(progress=False, **circumstances)
    how = {"batch_size": 10, "optimizer": keras.optimizers.legacy.Adam(rate), "loss": NegativeElbo(nll)}
    return fit(model, x, y, run=run, **how).epochs[-1]


def squares(y, outputs):
    return tf.reduce_mean((y - outputs) ** 2)


def crossentropies(y, logits):
    return keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)


FORMS = {
    **{name: LABELS.astype(name) for name in ("uint8", "int8", "uint16", "int32", "int64", "uint64")},
    "column": LABELS[:, None].astype(np.uint8),
    "one-hot integers": np.eye(3, dtype=np.int32)[LABELS],
    "one-hot numbers": np.eye(3, dtype=np.float32)[LABELS],
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_every_form_train_alike(form):
    logits = dense(3)(X).numpy()
    row = train(dense(3), FORMS[form])
    right = -np.mean((logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))[np.arange(40), LABELS])
    assert row["nll"] == pytest.approx(right, rel=1e-5)
    assert row["accuracy"] == pytest.approx(np.mean(logits.argmax(axis=1) == LABELS))


def test_accuracy_is_reported_for_classes_alone():
    assert train(dense(3), LABELS[:, None], crossentropies)["accuracy"] > 0
    columns = LABELS[:, None].astype(np.float32)
    assert "accuracy" not in train(dense(2), LABELS[:, None], gaussian_nll), "these are counts, and no classes"
    assert "accuracy" not in train(dense(1), LABELS[:, None], lambda y, o: squares(tf.cast(y, tf.float32), o))
    assert "accuracy" not in train(dense(1), columns, squares)
    many = np.stack([LABELS > 0, LABELS > 1, LABELS < 2], axis=1).astype(np.int32)
    logistic = tf.nn.sigmoid_cross_entropy_with_logits
    row = train(dense(3), many, lambda y, o: tf.reduce_mean(logistic(tf.cast(y, tf.float32), o)))
    assert "accuracy" not in row, "an example may have several of these labels"


def test_the_accuracy_of_exact_labels_is_one():
    model = dense(3, kernel_initializer=keras.initializers.Identity(9.0))
    x = np.eye(3, 5, dtype=np.float32)[LABELS]
    assert [train(model, y, x=x)["accuracy"] for y in FORMS.values()] == [1.0] * len(FORMS)


SHIFTED = REAL + 1000
WRONG = {
    "pairs": (dense(1), REAL, squares, r"targets \[N\] and outputs \[N, 1\].*targets\[:, None\]"),
    "far pairs": (dense(1), SHIFTED, squares, r"targets \[N\] and outputs \[N, 1\]"),
    "pairs the other way": (dense(1, layers.Reshape([])), REAL[:, None], squares, r"outputs \[N\].*targets\[:, 0\]"),
    "pairs without a mean": (dense(1), REAL, lambda y, o: (y - o) ** 2, r"one for each example"),
    "heads": (dense(2), REAL, gaussian_nll, r"targets \[N\].*outputs \[N, 2\].*targets\[:, None\]"),
    "odd outputs": (dense(3), REAL[:, None], gaussian_nll, r"outputs \[N, 3\].*two units"),
    "a sum": (dense(3), LABELS, lambda y, o: tf.reduce_sum(crossentropies(y, o)), "sums over the examples"),
    "from 1": (dense(3), LABELS + 1, categorical_nll, "labels go from 1 to 3.*0 to 2"),
    "real labels": (dense(3), REAL, categorical_nll, r"labels \[N\] of type float32.*gaussian_nll"),
    "one class": (dense(1), LABELS, categorical_nll, "one output for each class"),
    "other widths": (dense(2), np.ones([40, 3], np.float32), squares, r"targets \[N, 3\] and outputs \[N, 2\]"),
    "words": (dense(3), np.array(["a", "b"] * 20), categorical_nll, "numbers as labels"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_match_is_named_before_the_first_step(kind, tmp_path):
    model, y, nll, message = WRONG[kind]
    with pytest.raises(ValueError, match=message) as caught:
        train(model, y, nll, folder=tmp_path / "run")
    assert "in user code" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_distributions_as_outputs_are_checked_as_well():
    model = dense(1, tfp.layers.DistributionLambda(lambda t: tfd.Normal(t, 1.0)))
    nll = lambda y, d: -d.log_prob(y)  # noqa: E731
    right = 0.5 * np.mean((REAL[:, None] - model(X).mean()) ** 2) + 0.5 * np.log(2 * np.pi)
    assert train(model, REAL[:, None], nll)["nll"] == pytest.approx(right, rel=1e-5)
    with pytest.raises(ValueError, match=r"targets \[N\] and outputs \[N, 1\]"):
        train(model, REAL, lambda y, d: tf.reduce_mean(nll(y, d)))


def test_losses_that_take_the_shapes_apart_themselves_are_left_alone():
    for y in (REAL, SHIFTED):
        right = np.mean((y - dense(1)(X)[:, 0]) ** 2)
        assert train(dense(1), y, lambda y, o: squares(y, o[:, 0]))["nll"] == pytest.approx(right, rel=1e-5)
    zero = dense(3, kernel_initializer="zeros")
    assert train(zero, LABELS, lambda y, o: tf.reduce_mean(crossentropies(y, o)))["nll"] == pytest.approx(np.log(3))
    vector = train(dense(3), LABELS, crossentropies)["nll"]
    assert vector == pytest.approx(train(dense(3), LABELS)["nll"], rel=1e-6)


def test_a_double_precision_model_trains():
    keras.backend.set_floatx("float64")
    try:
        model = keras.Sequential([layers.InputLayer((5,)), DenseFlipout(4), layers.Dense(3, kernel_regularizer="l2")])
        before = model.get_weights()
        row = train(model, LABELS, x=X.astype(np.float64), rate=1e-3)
    finally:
        keras.backend.set_floatx("float32")
    assert all(np.any(old != new) for old, new in zip(before, model.get_weights(), strict=True))
    assert row["loss"] == pytest.approx(row["nll"] + row["kl"] / 40 + row["regulariser"], rel=1e-5)


def test_regularisers_have_a_row_that_a_resumed_run_continues(tmp_path):
    how = {"kernel_regularizer": "l2", "activity_regularizer": "l1"}
    assert "regulariser" not in train(dense(3), LABELS)
    whole = train(dense(3, **how), LABELS, rate=0.1, folder=tmp_path / "whole")
    train(dense(3, **how), LABELS, rate=0.1, folder=tmp_path / "parts", max_steps=2)
    parts = train(dense(3, **how), LABELS, rate=0.1, folder=tmp_path / "parts", resume=True)
    assert parts["regulariser"] == whole["regulariser"] > 0
    assert whole["loss"] == pytest.approx(whole["nll"] + whole["regulariser"], rel=1e-5)


class TwoTasks(keras.Sequential):
    """A model with a variable that its outputs do not depend on."""

    def build(self, shape):
        super().build(shape)
        self.other = self.add_weight("other_head", [3])


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_variable_that_the_loss_does_not_reach_is_named_and_stays(policy):
    model = TwoTasks(
        [layers.InputLayer((5,)), layers.Dense(3, dtype=policy), layers.Activation("linear", dtype="float32")]
    )
    model.build([None, 5])
    before = model.get_weights()
    with pytest.warns(UserWarning, match="does not depend on.*other_head"):
        train(model, LABELS, rate=0.1)
    moved = {v.name: bool(np.any(old != v.numpy())) for v, old in zip(model.weights, before, strict=True)}
    assert not moved.pop("other_head:0") and all(moved.values()) and moved


def test_a_model_without_trainable_variables_is_an_error():
    with pytest.raises(ValueError, match="no trainable variables"):
        train(dense(3, trainable=False), LABELS)


class Own(layers.Layer):
    """A variational layer as tutorials write it, without its noise."""

    def build(self, shape):
        self.mean = self.add_weight("mean", [shape[-1], 3], initializer="ones")

    def call(self, inputs):
        self.add_loss(tf.reduce_sum(self.mean**2))
        return inputs @ self.mean


class Compiled(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    @tf.function
    def call(self, inputs):
        return self.layer(inputs)


def test_losses_of_layers_of_other_kinds_are_counted_with_a_word_or_refused():
    with pytest.warns(UserWarning, match="adds a loss in its call, which is taken as a KL"):
        assert train(keras.Sequential([layers.InputLayer((5,)), Own()]), LABELS)["kl"] == 15
    inputs, own = keras.Input((5,)), Own()
    with pytest.raises(ValueError, match="applied 2 times"):
        train(keras.Model(inputs, own(inputs) + own(2 * inputs)), LABELS)
    for layer in (Own(), layers.Dense(3, activity_regularizer="l1")):
        model = Compiled(layer)
        model(X[:10])  # traced here, and not again in training
        with pytest.raises(ValueError, match="Remove @tf.function"):
            train(model, LABELS)


def test_a_compiled_call_and_a_loop_over_steps_train_with_the_whole_kl():
    layer = tfp.layers.DenseReparameterization(3)
    model = Compiled(layer)
    model(X[:10])
    right = float(tfd.kl_divergence(layer.kernel_posterior, layer.kernel_prior))
    assert train(model, LABELS)["kl"] == pytest.approx(right, rel=1e-5)
    steps = keras.Sequential([layers.InputLayer((6, 5)), layers.TimeDistributed(layer), layers.Flatten()])
    assert train(steps, LABELS, x=RANDOM.random((40, 6, 5), np.float32))["kl"] == pytest.approx(right, rel=1e-5)


def test_a_divergence_that_is_no_kl_gives_a_warning():
    scaled = DenseFlipout(3, kernel_divergence_fn=lambda q, p, _: tfd.kl_divergence(q, p) / 40)
    with pytest.warns(UserWarning, match="Training uses KL"):
        train(keras.Sequential([layers.InputLayer((5,)), scaled]), LABELS)


def test_the_check_leaves_the_model_as_it_was():
    model = dense(3, layers.BatchNormalization(momentum=0.5))
    with pytest.raises(ValueError, match="labels go"):
        train(model, LABELS + 5)
    np.testing.assert_array_equal(model.get_weights()[-2], np.zeros(3))
    assert not tf.config.functions_run_eagerly() and not any("call" in vars(layer) for layer in model.layers)
