"""The protocol by which notebook 11 compares methods."""

import sys
from contextlib import contextmanager

from helpers import ROOT, data, metrics
from helpers.data import Dataset
from helpers.inference import predict
from helpers.methods.weights import assigned
from helpers.train import comparison
from helpers.train.choices import Examples
from helpers.train.comparison import task as tasks

import nbformat
import numpy as np
import pytest
import tensorflow_probability as tfp
from scipy.special import logsumexp


@pytest.fixture(scope="module")
def task():
    """Small images whose brightest half is the class, on a dense network."""
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 700).astype(np.int32)
    x = random.integers(0, 120, (700, 28, 28, 1), dtype=np.uint8)
    x[np.arange(700), :, y * 14] += 100  # a column in the left or in the right half
    return comparison.Task(
        name="columns",
        dataset=Dataset("columns", "made here", "0" * 64, False, ("left", "right"), x, y, x[:1], y[:1]),
        model="CNN_LeNet",
        training=Examples(x[:400], y[:400]),
        held_out=Examples(x[400:500], y[400:500]),
        test=Examples(x[500:], y[500:]),
        strangers=255 - x[:50],
        epochs=9,
        batch_size=40,
        augment=comparison.TASKS["mnist"].augment,
        draws=3,
        corrupted=20,
        corrupted_draws=2,
    )


FIRST = comparison.chosen("columns", [])  # the first trial of each method


@pytest.mark.slow
@pytest.mark.parametrize("name", comparison.METHODS)
def test_every_method_learns_and_is_found_again(name, task, tmp_path):
    train = comparison.METHODS[name].train
    p = predict(train(task, 1, FIRST, tmp_path), task.test.x, 5, seed=2)
    assert p.shape[1:] == (200, 2) and 1 <= len(p) <= 5
    assert metrics.accuracy(p.mean(axis=0), task.test.y) > 0.8  # 0.5 where only the frequencies were learned
    assert (len(np.unique(p.round(6), axis=0)) > 1) == (name != "deterministic")
    if name not in ("swag",):  # whose snapshots no folder keeps
        again = predict(train(task, 1, FIRST, tmp_path), task.test.x, 5, seed=2)
        np.testing.assert_allclose(again, p, atol=1e-6)


def test_all_methods_start_from_the_same_weights(task):
    plain, bayesian = tasks.network(task, 3), tasks.flipout_network(task, 3, prior_scale=2.0)
    dropout, other = tasks.network(task, 3, rate=0.2), tasks.network(task, 4)
    kernels = [layer.kernel.numpy() for layer in plain.layers if layer.weights]
    assert len(kernels) == 4
    for model in (bayesian, dropout):
        own = [layer for layer in model.layers if layer.weights]
        found = [getattr(layer, "kernel_posterior", None) for layer in own]
        found = [q.distribution.loc.numpy() if q else layer.kernel.numpy() for q, layer in zip(found, own, strict=True)]
        assert all(np.array_equal(a, b) for a, b in zip(found, kernels, strict=True))
    assert not np.array_equal(other.layers[0].kernel.numpy(), kernels[0])
    # He's initialisation, which Keras truncates at two standard deviations and rescales.
    assert kernels[1].std() == pytest.approx(np.sqrt(2 / np.prod(kernels[1].shape[:3])), rel=0.02)


def test_the_regulariser_is_the_logarithm_of_the_prior_of_flipout(task):
    model, bayesian = tasks.network(task, 0, prior_scale=2.0), tasks.flipout_network(task, 0, prior_scale=2.0)
    expected = 0.0
    for layer, own in zip(
        (layer for layer in model.layers if layer.weights),
        (layer for layer in bayesian.layers if layer.weights),
        strict=True,
    ):
        normal = tfp.distributions.Normal(
            np.float32(0), np.float32(2) * np.sqrt(2 / np.prod(layer.kernel.shape[:-1]), dtype=np.float32)
        )
        expected -= float(np.sum(normal.log_prob(layer.kernel) - normal.log_prob(0.0))) / 400
        np.testing.assert_allclose(own.kernel_prior.distribution.scale, normal.scale, rtol=1e-6)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-4)


def test_dropout_precedes_all_layers_with_weights_but_the_first(task):
    kinds = [type(layer).__name__ for layer in tasks.network(task, 0, rate=0.3).layers]
    assert kinds == [
        *("Conv2D", "MaxPooling2D", "Dropout", "Conv2D", "MaxPooling2D", "Flatten"),
        *("Dropout", "Dense", "Dropout", "Dense"),
    ]


def test_the_held_out_examples_are_the_last_of_the_training_set(monkeypatch):
    def load(name, folder, quiet):
        shape = {"cifar10": (32, 32, 3)}.get(name, (28, 28, 1))
        x = np.zeros((6000, *shape), np.uint8) + (np.arange(6000) // 25).astype(np.uint8)[:, None, None, None]
        return Dataset(name, "made here", "0" * 64, True, tuple("0123456789"), x, np.zeros(6000, int), x, x[:, 0, 0, 0])

    monkeypatch.setattr(data, "load", load)
    full = comparison.make_task("cifar10", "full")
    assert (len(full.training.x), len(full.held_out.x), len(full.test.x)) == (5250, 750, 6000)
    assert full.training.x.max() == 209 and full.held_out.x.min() == 210
    assert full.strangers.shape == (5000, 32, 32, 3) and not full.strangers[:, :2].any()
    assert full.steps == 8 * (5250 // 64)
    quick = comparison.make_task("mnist", "quick")
    assert (len(quick.training.x), len(quick.held_out.x), len(quick.test.x)) == (1000, 750, 500)
    assert (full.draws % comparison.MEMBERS, full.corrupted_draws % comparison.MEMBERS) == (0, 0)  # as many for each
    longer = comparison.make_task("mnist", "quick", epochs=7)
    assert longer.epochs == 7 and longer.name not in (quick.name, comparison.make_task("mnist", "full").name)
    for given in (("letters", "full"), ("mnist", "fast")):
        with pytest.raises(ValueError, match="expected one of mnist, fashion_mnist, cifar10 and quick or full"):
            comparison.make_task(*given)


def test_the_trial_with_the_lowest_nll_is_chosen():
    rows = [
        {"dataset": "mnist", "method": "ivon", "trial": "0", "nll": "0.5"},
        {"dataset": "mnist", "method": "ivon", "trial": "3", "nll": "0.2"},
        {"dataset": "mnist", "method": "swag", "trial": "1", "nll": "0.1"},
        {"dataset": "cifar10", "method": "ivon", "trial": "1", "nll": "0.1"},
        {"dataset": "mnist", "method": "dropout", "trial": "2", "nll": "", "status": "failed"},
    ]
    found = comparison.chosen("mnist", rows)
    trials = {name: method.trials for name, method in comparison.METHODS.items()}
    assert found["ivon"] == trials["ivon"][3] and found["swag"] == trials["swag"][1]
    assert found["dropout"] == trials["dropout"][0]
    deeper = {name: method.settings("cifar10") for name, method in comparison.METHODS.items()}
    assert comparison.chosen("cifar10", rows)["ivon"] == deeper["ivon"][1] != trials["ivon"][1]
    assert {len(each) for each in trials.values()} == {0, 4}  # as many for each that has any
    assert len(deeper["ivon"]) == len(deeper["deterministic"]) == 3


@pytest.mark.parametrize(
    "method, trial, said",
    [("ivon", 3, "ivon has 3 trials on cifar10, counted from 0, and none of number 3"), ("ensemble", 0, "has 0 trials"),
     ("adam", 0, "expected a method of deterministic, flipout")],
)  # fmt: skip
def test_a_trial_that_a_method_does_not_have_is_named(method, trial, said):
    with pytest.raises(ValueError, match=said):
        comparison.tried("cifar10", method, trial)


class Known:
    """A posterior of two networks: the model, and the model with twice its weights."""

    members = 2

    def __init__(self, model):
        self.model = model

    @contextmanager
    def fixed(self, seed, number):
        with assigned(self.model.weights, [w * (number + 1) for w in self.model.get_weights()]):
            yield self.model


def test_scores_are_those_of_the_mean_of_the_draws(task):
    model = tasks.network(task, 0)
    found = comparison.scores(Known(model), task)
    logits = []
    for factor in (1, 2):
        other = tasks.network(task, 0)
        other.set_weights([w * factor for w in model.get_weights()])
        logits.append(other(task.test.x / np.float32(255)).numpy().astype(np.float64))
    p = np.mean([np.exp(f - logsumexp(f, axis=1, keepdims=True)) for f in logits], axis=0)
    rows = np.arange(200)
    assert found["nll"] == pytest.approx(-np.log(p[rows, task.test.y]).mean(), rel=1e-4)
    assert found["accuracy"] == pytest.approx((p.argmax(axis=1) == task.test.y).mean())
    apart = (logits[0].argmax(axis=1) != logits[1].argmax(axis=1)).mean()
    wrong = np.mean([f.argmax(axis=1) != task.test.y for f in logits])
    assert found["disagreement"] == pytest.approx(apart / wrong, rel=1e-6)
    scaled = p ** (1 / found["temperature"])
    scaled /= scaled.sum(axis=1, keepdims=True)
    assert found["nll_scaled"] == pytest.approx(-np.log(scaled[rows, task.test.y]).mean(), rel=1e-4)
    held_out = comparison.held_out_scores(Known(model), task)
    assert held_out["nll"] != found["nll"] and set(held_out) == {"accuracy", "nll", "brier", "ece"}


def test_shift_scores_average_over_corruptions(task, monkeypatch):
    monkeypatch.setattr(sys.modules[comparison.shift_scores.__module__], "SEVERITIES", (3,))
    model = tasks.network(task, 0)
    found = comparison.shift_scores(model, task, seed=4)
    each = []
    for name in data.SEVERITIES:
        p = predict(model, data.corrupt(task.test.x[:20], name, 3, 4))[0]
        each.append(metrics.nll(p, task.test.y[:20]))
        assert found[f"nll_{name}"] == pytest.approx(each[-1], rel=1e-6)
    assert found["nll_3"] == pytest.approx(np.mean(each), rel=1e-6)
    assert len(found) == 3 + len(data.SEVERITIES)


def test_a_task_whose_held_out_examples_are_all_right_has_no_temperature(task):
    network = tasks.network(task, 0)
    # The last layer says class 0 with near certainty.
    network.layers[-1].set_weights([np.zeros((64, 2)), np.array([60.0, 0.0])])
    sure = task._replace(held_out=Examples(task.held_out.x, np.zeros(100, np.int32)))
    with pytest.warns(UserWarning, match="No temperature was fitted"):
        found = comparison.scores(network, sure)
    assert found["temperature"] == 1 and found["nll_scaled"] == pytest.approx(found["nll"], rel=1e-4)


def test_the_job_notebook_names_columns_that_the_comparison_reads():
    cells = nbformat.read(ROOT / "notebooks" / "jobs" / "compare_methods.ipynb", 4).cells
    parameters = {}
    exec(cells[1].source, parameters)  # the cell with the tag `parameters`
    assert cells[1].metadata["tags"] == ["parameters"]
    assert {"dataset", "method", "trial"} < set(parameters)
    assert parameters["method"] in comparison.METHODS
    words = cells[0].source.split("--sweep method=")[1:]
    named = {name for word in words for name in word.split()[0].split(",")}
    assert named | {"ensemble", "ivon_ensemble"} == set(comparison.METHODS)
