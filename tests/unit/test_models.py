"""The catalogue of models."""

from helpers import elbo, inference, models

import numpy as np
import pytest


@pytest.mark.parametrize("name", models.NAMES)
def test_every_model_gives_logits_whatever_the_case_of_its_name(name):
    model = models.build(name.lower())
    assert model.name == name
    assert model(np.zeros((3, *models.record(name).input_shape), np.float32)).shape == (3, 10)
    assert inference.is_bayesian(model) == ("BNN" in name)
    with pytest.raises(ValueError, match="BNN_FC_flip"):
        models.build(name + "x")


def test_the_catalogue_keeps_the_names_that_commands_and_flagfiles_use():
    names = [
        "BNN_FC_flip",
        "BNN_FC_nonflip",
        "BNN_LeNet_flip",
        "BNN_conv_flip",
        "BNN_conv_nonflip",
        "CIFAR10_BNN_model",
    ]
    assert sorted(models.BAYESIAN) == names
    assert sorted(models.DETERMINISTIC) == ["CIFAR10_CNN_model", "CNN_FC", "CNN_LeNet", "CNN_conv"]
    assert set(models.NAMES) == {*models.BAYESIAN, *models.DETERMINISTIC}


@pytest.mark.parametrize("name", models.NAMES)
def test_a_record_holds_the_facts_about_its_model(name):
    record = models.record(name.upper())
    assert record.name == name and record.help
    assert record.input_shape == {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}[record.dataset]
    assert models.build(name).input_shape == (None, *record.input_shape)
    assert models.build(name, (16, 16, 2), num_classes=3).input_shape == (None, 16, 16, 2)
    assert (record.twin is None) == (record.kind == "deterministic") == (name in models.DETERMINISTIC)
    if record.twin:
        twin = models.record(models.twin(name))
        assert twin.kind == "deterministic"
        assert (twin.architecture, twin.dataset) == (record.architecture, record.dataset)
    else:
        with pytest.raises(ValueError, match=f"{name} is deterministic"):
            models.twin(name)


@pytest.mark.parametrize("name", models.BAYESIAN)
def test_a_twin_has_the_same_weights_and_the_posterior_is_over_the_layers_of_the_design(name):
    bayesian, twin = models.build(name), models.build(models.twin(name))
    own = [layer for layer in bayesian.layers if layer.weights]
    shapes = [getattr(layer, "kernel_posterior", None) or layer.kernel for layer in own]
    shapes = [tuple(k.event_shape if hasattr(k, "event_shape") else k.shape) for k in shapes]
    assert shapes == [tuple(layer.kernel.shape) for layer in twin.layers if layer.weights]
    assert len(inference.variational_layers(bayesian)) == (1 if "FC" in name or "conv" in name else len(own))


def test_the_kl_is_the_closed_form_and_is_there_once_a_layer():
    model = models.build("BNN_FC_flip")
    model(np.zeros((1, 28, 28, 1), np.float32))
    expected = sum(
        np.sum(0.5 * (sd**2 + mean**2 - 1) - np.log(sd)) for mean, sd in inference.posterior_moments(model).values()
    )
    assert float(elbo.kl_divergence(model)) == pytest.approx(expected, rel=1e-5)
    assert float(elbo.kl_divergence(models.build("CNN_FC"))) == 0


@pytest.mark.parametrize("name", models.BAYESIAN)
def test_a_model_and_its_twin_start_from_the_same_initialisation(name):
    for model in (models.build(name, seed=1), models.build(models.twin(name), seed=2)):
        for layer in (layer for layer in model.layers if layer.weights):
            posterior = getattr(layer, "kernel_posterior", None)
            kernel = (posterior.distribution.loc if posterior else layer.kernel).numpy()
            he = np.sqrt(2 / np.prod(kernel.shape[:-1]))
            assert kernel.std() == pytest.approx(he, rel=6 / np.sqrt(2 * kernel.size)), layer.name
