"""The training loop, and the compiled step that benchmarks time."""

from helpers.fit.loop import fit
from helpers.fit.steps import State, stepper

__all__ = ["State", "fit", "stepper"]
