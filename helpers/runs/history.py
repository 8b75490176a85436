"""What a training run has measured: means over epochs, and the times of its steps."""

from typing import NamedTuple


class History(NamedTuple):
    """What a run has measured.

    Attributes:
      epochs: a dict for each epoch, with means over it.
      steps: a dict for each call of the compiled step function; in long runs a dict covers several calls.
      resumed: how many rows of `steps` come from the run that this one resumed.
    """

    epochs: list
    steps: list
    resumed: int = 0

    def continued(self, epochs_done: int, complete: bool) -> "History":
        """Return the history to which the resumed run adds its rows, after `epochs_done` whole epochs.

        A run that stopped inside an epoch has left a row for that part. Unless it is complete, the row of the whole
        epoch will take its place.
        """
        rows = [row for row in self.epochs if complete or row["epoch"] <= epochs_done]
        return History(rows, self.steps, len(self.steps))

    def first_row_after(self, step: int) -> int:
        """Return the place in `steps` of the first row after `step`."""
        return sum(row["step"] <= step for row in self.steps)

    def seconds(self, first_row: int) -> float:
        """Return the seconds that the calls from this row on have taken."""
        return sum(row["seconds"] for row in self.steps[first_row:])

    def note(self, step: int, count: int, seconds: float, epoch_row: int) -> None:
        """Add a call of `count` steps that ended at `step`.

        Millions of steps must fit in memory and in each checkpoint, so a row grows to a thousandth of the steps before
        it. It does not grow into another epoch (from row `epoch_row` on). The first call of a job, which compiles,
        keeps a row of its own.
        """
        rows = self.steps
        if len(rows) > max(epoch_row, self.resumed + 1) and rows[-1]["steps"] < step / 1000:
            last = rows.pop()
            count, seconds = last["steps"] + count, last["seconds"] + seconds
        rows.append({"step": step, "steps": count, "seconds": seconds})
