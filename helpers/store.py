"""A run's folder: its settings, its histories as CSV, its checkpoints. Whole or absent, never half."""

import contextlib
import csv
import io
import json
import os
import sys
from pathlib import Path

import tensorflow as tf


def write_atomically(path, text):
    """Replace the file's content whole or not at all, even if the process dies or the disk is full."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_csv(path, rows):
    """Write dicts with the same keys as CSV with a header, atomically."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def _value(text):
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def read_csv(path):
    """The rows of a CSV as `write_csv` wrote them: numbers as numbers, words as words."""
    with open(path, newline="") as file:
        return [{key: _value(value) for key, value in row.items()} for row in csv.DictReader(file)]


def restore_model(model, folder):
    """Give `model` the weights that the last checkpoint of the run in `folder` holds; nothing else of it is read.

    Raises:
      ValueError: no checkpoint there, or one that does not fit the model.
    """
    path = tf.train.latest_checkpoint(str(Path(folder) / "checkpoints"))
    if path is None:
        raise ValueError(f"{folder} holds no checkpoint: give the folder of a run, as helpers.train leaves it")
    try:
        tf.train.Checkpoint(model=model).restore(path).assert_existing_objects_matched().expect_partial()
    except Exception as error:  # TensorFlow raises whatever the damage makes it stumble over
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} does not fit the model {model.name}: {reason}") from error


class Store:
    """settings.json, history.csv, steps.csv and checkpoints/ in one folder, used by rank 0 alone.

    Args:
      folder: made if absent.
      checkpoint: `tf.train.Checkpoint` of all that a resumed run needs.
      settings: dict of what must not change between a run and its resumption.
    """

    def __init__(self, folder, checkpoint, settings):
        self.folder, self.checkpoint, self.settings = Path(folder), checkpoint, settings

    def open(self, resume, history):
        """Begin a run in the folder, or with `resume` restore its last checkpoint and the history up to it.

        Raises:
          FileExistsError: the folder holds checkpoints already, and `resume` is false.
          ValueError: they belong to a run with other settings, or none of them can be read. Where only
            the newest is damaged, the one before it is taken, and a line on stderr says so.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.manager = tf.train.CheckpointManager(
            self.checkpoint, str(self.folder / "checkpoints"), max_to_keep=2, checkpoint_name="step"
        )
        if not self.manager.checkpoints:
            write_atomically(self.folder / "settings.json", json.dumps(self.settings, indent=1) + "\n")
            return
        if not resume:
            raise FileExistsError(
                f"{self.folder} holds a run already: resume it, give another folder, or remove it first"
            )
        before = json.loads((self.folder / "settings.json").read_text())
        for key in before | self.settings:
            earlier, now = before.get(key), self.settings.get(key)
            if earlier != now:
                raise ValueError(
                    f"cannot resume in {self.folder}: its run had {key} = {earlier!r}, this one has {now!r}. "
                    "Give the same setting, or another folder."
                )
        step = self._restore()
        history.steps.extend(r for r in read_csv(self.folder / "steps.csv") if r["step"] <= step)
        history.epochs.extend(r for r in read_csv(self.folder / "history.csv") if r["step"] <= step)

    def _restore(self):
        """Restore the newest checkpoint that can be read; its step."""
        for path in reversed(self.manager.checkpoints):
            try:
                self.checkpoint.restore(path).assert_existing_objects_matched()
                return int(path.rpartition("-")[2])
            except Exception as error:  # TensorFlow raises whatever the damage makes it stumble over
                reason = str(error).splitlines()[0]
                print(f"{self.folder}: {Path(path).name} cannot be read ({reason})", file=sys.stderr)
        raise ValueError(f"{self.folder} holds no checkpoint that can be read; remove the folder to start anew")

    def save(self, step, history):
        """Save a checkpoint named by `step`, the histories first: rows that are ahead of it do no harm."""
        write_csv(self.folder / "history.csv", history.epochs)
        write_csv(self.folder / "steps.csv", history.steps)
        self.manager.save(checkpoint_number=step)
