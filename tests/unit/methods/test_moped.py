"""A BNN started from its trained twin."""

from helpers import elbo, inference, models
from helpers.methods.moped import start_from_twin

import numpy as np
import pytest


@pytest.mark.parametrize("name", ["BNN_conv_flip", "CIFAR10_BNN_model"])
def test_posteriors_and_priors_stand_where_the_twin_does(name):
    model, twin = models.build(name, seed=1), models.build(models.twin(name), seed=2)
    for layer in twin.layers:
        layer.set_weights([weight + 0.01 for weight in layer.get_weights()])
    start_from_twin(model, twin, prior_scale=0.5, delta=0.1)
    x = np.random.default_rng(0).random((4, *model.input_shape[1:]), dtype=np.float32)
    outputs = model(x)
    expected = 0.0
    for layer in inference.variational_layers(model):
        kernel, bias = twin.get_layer(layer.name).get_weights()
        q, p = layer.kernel_posterior, layer.kernel_prior
        assert np.array_equal(q.mean(), kernel) and np.array_equal(p.mean(), kernel)
        assert np.allclose(q.stddev(), 0.1 * np.abs(kernel), rtol=1e-3, atol=2e-6)
        assert np.array_equal(layer.bias_posterior.mean(), bias)
        ratio = q.stddev().numpy() / 0.5
        expected += np.sum(0.5 * ratio**2 - 0.5 - np.log(ratio), dtype=np.float64)
    assert np.isclose(elbo.kl_divergence(model), expected, rtol=1e-5)
    mean = inference.sample_outputs(model, x, 100).mean(0)
    assert np.abs(mean - twin(x)).max() < 0.2 * np.abs(twin(x)).max() and outputs.shape == (4, 10)


def test_what_does_not_fit_is_refused():
    model, twin = models.build("BNN_FC_flip"), models.build("CNN_FC")
    with pytest.raises(ValueError, match="must be positive"):
        start_from_twin(model, twin, delta=0.0)
    with pytest.raises(ValueError, match="dense_1 has weights"):
        start_from_twin(model, models.build("CNN_FC", (14, 14, 1)))
    with pytest.raises(ValueError, match="No such layer"):
        start_from_twin(models.build("BNN_conv_flip"), twin)
