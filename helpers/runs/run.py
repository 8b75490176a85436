"""The circumstances of a training run: where it is kept, with which ranks it trains, and when it reports."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.distributed import ALONE, World
from helpers.runs.checkpoints import Checkpoints
from helpers.runs.folder import saved

import tensorflow as tf
import tf_keras as keras


@dataclass(frozen=True)
class Run:
    """The circumstances of a training run, as `fit` takes them.

    Args:
      folder: where rank 0 keeps the run; None keeps nothing.
      world: the ranks that train together, as `distributed.init` returns them.
      resume: continue from the folder's last checkpoint, if there is one.
      checkpoint_every, callback_every: in steps; None is once an epoch. Both also happen at the end.
      max_steps: a limit on the steps of each rank.
      settings: what a resumption must have in common with the run besides what `fit` notes itself.
      callback: called as callback(step, model, means) with this rank's means over the epoch so far (loss, nll, kl,
        accuracy), and before the first step with no means.
      steps_per_call: steps in one call of the compiled function; a call costs about a millisecond.
      progress: show a progress bar on rank 0.
    """

    folder: Path | str | None = None
    world: World = ALONE
    resume: bool = False
    checkpoint_every: int | None = None
    max_steps: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    callback: Callable[[int, keras.Model, dict], None] | None = None
    callback_every: int | None = None
    steps_per_call: int = 10
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "callback_every", "steps_per_call"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be 1 or more, and is {number}")

    def open(self, checkpoint: tf.train.Checkpoint, settings: dict) -> "Checkpoints":
        """Open the folder on rank 0, and restore the last checkpoint there if the run is resumed.

        Args:
          checkpoint: all that a resumed run needs.
          settings: what must not change between a run and its resumption.

        Raises:
          FileExistsError, OSError, ValueError: see `Checkpoints.open`.
          RankFailure: opening failed on rank 0, and this is another rank.
        """
        checkpoints = Checkpoints(self.folder, self.world, checkpoint, settings)
        self.world.on_first(lambda: checkpoints.open(self.resume))
        return checkpoints


def advice(folder: Path | str | None) -> str:
    """Return how to continue the run in `folder` after a failure, as a sentence without its full stop."""
    names = saved(folder) if folder else []
    if not names:
        return "There is no checkpoint yet: start the same command anew"
    return f"The same command with --resume goes on from the checkpoint of step {names[-1].rpartition('-')[2]}"
