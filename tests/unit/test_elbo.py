"""The loss: its parts against distributions of TFP, and the weight of the KL."""

from dataclasses import dataclass
from functools import partial

from helpers import elbo, models

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp


def test_the_loss_is_the_mean_nll_plus_the_kl_over_all_examples():
    model = models.build("BNN_FC_flip")
    x, y = np.random.default_rng(0).random((8, 28, 28, 1), np.float32), np.arange(8) % 10
    negative_elbo = elbo.NegativeElbo(kl_weight=elbo.constant(0.3))
    loss, nll, kl, logits, _ = negative_elbo(model, x, y, num_examples=500)
    expected = -tfp.distributions.Categorical(logits).log_prob(y)
    assert float(nll) == pytest.approx(np.mean(expected), rel=1e-5)
    assert float(loss) == pytest.approx(float(nll) + 0.3 * float(kl) / 500, rel=1e-6)


def test_the_gaussian_nll_is_that_of_a_normal_distribution():
    outputs, targets = np.random.default_rng(1).normal(size=(5, 6)), np.random.default_rng(2).normal(size=(5, 3))
    normal = tfp.distributions.Normal(outputs[:, :3], np.exp(outputs[:, 3:] / 2))
    expected = -np.mean(np.sum(normal.log_prob(targets), axis=1))
    assert float(elbo.gaussian_nll(tf.constant(targets), tf.constant(outputs))) == pytest.approx(expected)


def test_the_kl_weight_rises_linearly_and_stays():
    weights = [float(elbo.warmup(4, final=0.8)(epoch)) for epoch in (0, 1, 2, 4, 9)]
    assert weights == pytest.approx([0, 0.2, 0.4, 0.8, 0.8])
    assert float(elbo.constant(1.0)(0)) == 1


def half(epoch):
    return 0.5


@dataclass(frozen=True)
class Half:
    epochs: float

    def __call__(self, epoch):
        return 0.5


def test_the_settings_tell_schedules_apart_and_name_those_of_the_first_edition():
    settings = [elbo.NegativeElbo(kl_weight=weight).settings() for weight in (elbo.warmup(3, 0.5), half, Half(2.0))]
    assert settings == [
        {"kl_final": 0.5, "kl_warmup_epochs": 3},
        {"kl_weight": "half"},
        {"kl_weight": "Half(epochs=2.0)"},
    ]
    assert elbo.NegativeElbo(kl_weight=half).report(7) == {"kl_weight": 0.5}


@pytest.mark.parametrize("weight", [lambda epoch: 0.5, partial(half, epoch=3), object()])
def test_a_schedule_that_hides_its_parameters_cannot_be_kept(weight):
    with pytest.raises(ValueError, match="a frozen dataclass like elbo.LinearWarmup"):
        elbo.NegativeElbo(kl_weight=weight).settings()
