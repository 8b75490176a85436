"""What an all-reduce costs by formula, and a fit of such formulae to measured times.

The formulae count what one rank does: `messages` that it sends one after the other, `bytes` that it sends, and `sums`,
the bytes that it adds. A message of m bytes costs alpha + m beta, and a sum of m bytes costs m gamma (Thakur,
Rabenseifner and Gropp 2005, "Optimization of collective communication operations in MPICH").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls


@dataclass(frozen=True)
class Cost:
    """The work of one rank in an all-reduce of n bytes.

    Attributes:
      messages: number of messages, one after the other.
      bytes: bytes sent, as a multiple of n.
      sums: bytes added, as a multiple of n.
    """

    messages: float
    bytes: float
    sums: float

    def seconds(self, size: float, alpha: float, beta: float, gamma: float = 0.0) -> float:
        """Return the time of the all-reduce.

        Args:
          size: bytes.
          alpha: seconds of a message.
          beta: seconds to send a byte.
          gamma: seconds to add a byte.
        """
        return self.messages * alpha + size * (self.bytes * beta + self.sums * gamma)


def ring(ranks: int) -> Cost:
    """Return the cost of a ring: reduce-scatter, then all-gather, in steps of one n-th (Patarasuk and Yuan 2009)."""
    return Cost(2 * (ranks - 1), 2 * (ranks - 1) / ranks, (ranks - 1) / ranks)


def rabenseifner(ranks: int) -> Cost:
    """Return the cost of Rabenseifner's algorithm (Thakur, Rabenseifner and Gropp 2005).

    It halves the distance and the bytes in each step of a reduce-scatter, and doubles them in an all-gather. The
    formula holds for powers of two, and a little more is needed in between.
    """
    return Cost(2 * np.log2(ranks), 2 * (ranks - 1) / ranks, (ranks - 1) / ranks)


def recursive_doubling(ranks: int) -> Cost:
    """Return the cost of recursive doubling: all bytes in each of log2(ranks) steps (the same paper)."""
    return Cost(np.log2(ranks), np.log2(ranks), np.log2(ranks))


def reduce_broadcast(ranks: int) -> Cost:
    """Return the cost of a reduce and a broadcast, each by a binomial tree (the same paper)."""
    return Cost(2 * np.log2(ranks), 2 * np.log2(ranks), np.log2(ranks))


ALGORITHMS = {
    "ring": ring,
    "Rabenseifner": rabenseifner,
    "recursive doubling": recursive_doubling,
    "reduce, broadcast": reduce_broadcast,
}
FITS = (*ALGORITHMS, "constant + logarithm")


@dataclass(frozen=True)
class Fit:
    """A fit by least squares, in which no parameter is negative.

    Attributes:
      parameters: by name, in the unit of the times: of one message and of n bytes, or constant and logarithm.
      residuals: measured minus fitted, [points].
      rms: root of the mean squared residual.
    """

    parameters: Mapping[str, float]
    residuals: np.ndarray
    rms: float


def _columns(name: str, ranks: np.ndarray) -> dict[str, np.ndarray]:
    """Return what each parameter is multiplied by, [points]."""
    if name == "constant + logarithm":
        return {"constant": np.ones(len(ranks)), "log2": np.log2(ranks)}
    costs = [ALGORITHMS[name](int(number)) for number in ranks]
    return {"message": np.array([cost.messages for cost in costs]), "bytes": np.array([cost.bytes for cost in costs])}


def fit(name: str, ranks: Sequence[int], times: Sequence[float]) -> Fit:
    """Fit a formula to times of one size on several numbers of ranks.

    Args:
      name: one of `FITS`. Recursive doubling and reduce with broadcast send all bytes with each message, so only the
        sum of their two parameters is determined.
      ranks: numbers of ranks, at least 2.
      times: in any unit.

    Returns:
      The parameters that are not negative and fit best, in that unit.

    Raises:
      ValueError: the name is unknown, or there is a number of ranks below 2.
    """
    if name not in FITS or min(ranks) < 2:
        raise ValueError(f"expected one of {', '.join(FITS)} and 2 ranks or more, found {name!r} and {list(ranks)}")
    columns = _columns(name, np.asarray(ranks))
    found, _ = nnls(np.stack(list(columns.values()), axis=1), np.asarray(times, float))
    residuals = np.asarray(times, float) - predict(name, dict(zip(columns, found, strict=True)), ranks)
    parameters = {key: float(value) for key, value in zip(columns, found, strict=True)}
    return Fit(parameters, residuals, float(np.sqrt(np.mean(residuals**2))))


def predict(name: str, parameters: Mapping[str, float], ranks: Sequence[int]) -> np.ndarray:
    """Return the times of a fitted formula on other numbers of ranks, [points].

    Args:
      name: one of `FITS`.
      parameters: those of a fit.
      ranks: numbers of ranks.
    """
    columns = _columns(name, np.asarray(ranks))
    return np.sum([parameters[key] * column for key, column in columns.items()], axis=0)
