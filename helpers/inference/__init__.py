"""From a posterior to predictions."""

from helpers.inference.monte_carlo import sample_outputs, sample_probabilities

__all__ = ["sample_outputs", "sample_probabilities"]
