"""Timings that are taken in turns, so that a noisy machine disturbs all of them alike, and their ratios."""

import time
from collections.abc import Callable, Mapping

from helpers.progress import bar

import numpy as np
from numpy.typing import ArrayLike


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int = 15) -> dict[str, np.ndarray]:
    """Measure the wall time of functions, which are called in turn, round after round.

    Each function is called once before the first round, to compile and to fill caches.

    Args:
      functions: {name: function without arguments}.
      rounds: The number of timed calls of each function.

    Returns:
      {name: float64 [rounds]}, in seconds.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in bar(range(rounds), desc="timing"):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(seconds: ArrayLike, reference: ArrayLike) -> tuple[float, float, float]:
    """Return the median and the quartiles of the ratio of two series of timings.

    The ratio is taken round by round, so that what slows a whole round down cancels.

    Args:
      seconds: [rounds], in seconds.
      reference: [rounds], in seconds, of the same rounds.

    Returns:
      (median, first quartile, third quartile) of `seconds / reference`.
    """
    median, first, third = np.percentile(np.asarray(seconds) / np.asarray(reference), [50, 25, 75])
    return median, first, third
