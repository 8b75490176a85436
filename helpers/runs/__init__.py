"""A training run: its circumstances, its history, and the folder that keeps it."""

from helpers.runs.checkpoints import Checkpoints, restore_model
from helpers.runs.folder import empty, saved
from helpers.runs.history import History
from helpers.runs.run import Run, advice

__all__ = ["Checkpoints", "History", "Run", "advice", "empty", "restore_model", "saved"]
