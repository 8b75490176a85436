"""The posterior of a model that IVON has trained: draws, moments, and its KL divergence from the prior."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from helpers.methods.weights import network_seed, shaped

import numpy as np
import tf_keras as keras


@dataclass(frozen=True)
class IVONPosterior:
    """The independent normal posterior of a model's weights, which `predict` takes.

    Attributes:
      model: the model, whose trainable variables hold the means.
      optimizer: the `IVON` that has trained it and knows the standard deviations.
      members: None, because draws do not run out.

    Raises:
      ValueError: the optimiser has not trained this model.
    """

    model: keras.Model
    optimizer: Any
    members: int | None = None

    def __post_init__(self) -> None:
        own, trained = self.model.trainable_variables, self.optimizer.means
        if not trained or list(map(id, own)) != list(map(id, trained)):
            raise ValueError(
                f"This IVON has not trained the variables of {self.model.name}. Give it to fit with this model, or "
                "call runs.restore_model(model, folder, optimizer)."
            )

    @contextmanager
    def fixed(self, seed: int, number: int) -> Iterator[keras.Model]:
        """Yield the model with the weights of draw `number`.

        Raises:
          ValueError: another IVON has trained the model since.
        """
        if any(variable.means_of != id(self.optimizer) for variable in self.optimizer.means):
            raise ValueError(f"Another IVON has trained {self.model.name} since. Build a new model for each IVON.")
        with self.optimizer.sampled(network_seed(seed, number)):
            yield self.model

    def __reduce__(self) -> Any:
        raise TypeError("IVON's posterior cannot be copied or sent. Send its moments(), or save the run in a folder.")

    def moments(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (means, standard deviations) of each of the model's trainable variables, in their order."""
        deviations = shaped(self.optimizer.deviations(), self.optimizer.means)
        return [(mean.numpy(), sigma.numpy()) for mean, sigma in zip(self.optimizer.means, deviations, strict=True)]

    def kl(self) -> float:
        """Return KL(posterior || prior) in nats. With lambda = N, -ELBO / N is KL / N + the mean NLL of many draws.

        Both are normal, with variances sigma^2 and s^2 = 1 / (lambda delta). So it is the sum over weights of
        (sigma^2 / s^2 + m^2 / s^2 - 1 - log(sigma^2 / s^2)) / 2 (Kingma and Welling 2014, appendix B, with s = 1).
        """
        precision = float(self.optimizer.sample_size) * float(self.optimizer.decay)
        moments = zip(*self.moments(), strict=True)
        m, sigma = (np.concatenate([part.ravel() for part in parts]).astype(np.float64) for parts in moments)
        ratio = precision * sigma**2
        return float(np.sum(ratio + precision * m**2 - 1 - np.log(ratio)) / 2)
