"""The ranks of a job as the training loop sees them. `ALONE` is the world of a process without other ranks.

A rank is one of the processes that a launcher started together. The world size is their number.
"""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np


class RankFailure(RuntimeError):
    """Another rank has failed. The message names the rank and says why."""


class PeerLost(RuntimeError):
    """Another rank has ended, or Horovod has given it up."""


class World:
    """This process among the ranks of its job. This class has one rank; `HorovodWorld` extends it to several.

    Every rank of a job calls the same methods in the same order, because a rank that calls one waits for the others.

    Attributes:
      rank: the number of this process, from 0 to size - 1.
      size: the number of ranks.
      local_rank: the number of this process among the ranks on its node.
    """

    rank, size, local_rank = 0, 1, 0

    def average(self, tensors: list) -> list:
        """Average each tensor over the ranks.

        Call it inside a compiled step. The ranks' tensors have the same shapes.
        """
        return list(tensors)

    def mean(self, value: Any) -> np.ndarray:
        """Return the mean over the ranks of a number or an array."""
        return np.asarray(value)

    def gather(self, array: np.ndarray) -> np.ndarray:
        """Stack every rank's array [n_rank, ...] along the first axis, in the order of the ranks, on every rank."""
        return np.asarray(array)

    def gather_objects(self, value: Any) -> list:
        """Return a list of every rank's `value`, any object that can be pickled, in the order of the ranks."""
        return [value]

    def broadcast(self, variables: list) -> None:
        """Set the variables of every rank to rank 0's values."""

    def barrier(self) -> None:
        """Wait until every rank has come here, so that a timing starts on all of them at once."""

    def collective(self) -> AbstractContextManager:
        """Return a context for code that waits for the other ranks, such as a compiled step that averages.

        Raises:
          PeerLost: another rank was lost while this one waited.
        """
        return contextlib.nullcontext()

    def agree(self, failure: BaseException | None) -> None:
        """Fail on every rank if any rank has failed, so that no rank waits for one that is gone.

        Args:
          failure: this rank's exception, or None.

        Raises:
          BaseException: `failure` itself, on the rank that passed it.
          RankFailure: another rank failed; the message is that of the lowest failing rank.
        """
        failures = self.gather_objects(None if failure is None else str(failure))
        if failure is not None:
            raise failure
        for rank, message in enumerate(failures):
            if message is not None:
                raise RankFailure(f"rank {rank}: {message}")

    def on_first(self, action: Callable[[], Any]) -> None:
        """Call `action` on rank 0, and fail on every rank if it fails there.

        Raises:
          Exception: what `action` raised, on rank 0.
          RankFailure: `action` failed, on the other ranks.
        """
        failure = None
        if self.rank == 0:
            try:
                action()
            except Exception as error:
                failure = error
        self.agree(failure)


ALONE = World()


def differing(variables: list, world: World) -> float:
    """Return the largest absolute difference of any element of `variables` between any two ranks.

    In data-parallel training it is exactly 0 after the broadcast and stays so until the end.
    """
    flat = np.concatenate([np.ravel(variable.numpy()).astype(np.float64) for variable in variables])
    everyone = world.gather(flat[None])
    return float(np.max(everyone.max(axis=0) - everyone.min(axis=0)))
