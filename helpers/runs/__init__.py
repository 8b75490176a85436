"""A training run: its circumstances, its history, and the folder that keeps it."""

from helpers.runs.checkpoints import Checkpoints, restore_model, saved
from helpers.runs.history import History
from helpers.runs.run import Run, advice, empty

__all__ = ["Checkpoints", "History", "Run", "advice", "empty", "restore_model", "saved"]
