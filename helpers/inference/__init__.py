"""From a posterior to predictions."""

from helpers.inference.monte_carlo import predict, sample_outputs
from helpers.inference.posterior import Posterior, is_bayesian, posterior_moments, variational_layers

__all__ = [
    "Posterior",
    "is_bayesian",
    "posterior_moments",
    "predict",
    "sample_outputs",
    "variational_layers",
]
