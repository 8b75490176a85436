"""Timing things side by side, so that a noisy machine is noisy to all of them alike."""

import time

from helpers.progress import bar

import numpy as np


def interleaved(functions, rounds=15):
    """Wall time of functions without arguments, called in turn, round after round, after one call to warm up.

    Args:
      functions: {name: function}.
      rounds: calls of each that are timed.

    Returns:
      {name: float array [rounds]}, in seconds.
    """
    for function in functions.values():
        function()
    seconds = {name: [] for name in functions}
    for _ in bar(range(rounds), desc="timing"):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(seconds, reference):
    """(median, first quartile, third quartile) of `seconds` over `reference`, arrays [rounds], round by round."""
    return tuple(np.percentile(np.asarray(seconds) / np.asarray(reference), [50, 25, 75]))
