"""A run's folder: its settings, its histories as CSV, its checkpoints. Whole or absent, never half."""

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

from helpers import files, keras2  # noqa: F401

import tensorflow as tf


def saved(folder):
    """Paths of the checkpoints of the run in `folder`, without their endings, in the order of their saving.

    TensorFlow's own list of them has no checksum. It counts if it names just the ones that are there; else their
    times do. Their numbers do not: a run that goes on with more ranks counts fewer steps.
    """
    folder = Path(folder) / "checkpoints"
    times = {path.stem: path.stat().st_mtime_ns for path in folder.glob("step-*.index")}
    names = []
    with contextlib.suppress(ValueError):
        state = tf.train.get_checkpoint_state(str(folder))
        names = [Path(path).name for path in state.all_model_checkpoint_paths] if state else []
    if sorted(names) != sorted(times):
        names = sorted(times, key=times.get)
    return [str(folder / name) for name in names]


def restore_model(model, folder):
    """Give `model` the weights that the last checkpoint of the run in `folder` holds; nothing else of it is read.

    Raises:
      ValueError: no checkpoint there, or one that does not fit the model.
    """
    path = next(reversed(saved(folder)), None)
    if path is None:
        raise ValueError(f"{folder} holds no checkpoint: give the folder of a run, as helpers.train leaves it")
    try:
        tf.train.Checkpoint(model=model).restore(path).assert_existing_objects_matched().expect_partial()
    except Exception as error:  # TensorFlow raises whatever the damage makes it stumble over
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} does not fit the model {model.name}: {reason}") from error


class _Rows(tf.train.experimental.PythonState):
    """The histories as a checkpoint holds them: under its checksums, and up to its step."""

    def __init__(self):
        self.rows = {"epochs": [], "steps": []}

    def serialize(self):
        return json.dumps(self.rows)

    def deserialize(self, string_value):
        self.rows = json.loads(string_value)


class Store:
    """settings.json, history.csv, steps.csv and checkpoints/ in one folder, used by rank 0 alone.

    The CSV files are for reading, the checkpoints for going on: these hold the histories too, and each part of
    them has a checksum. The folder is its owner's alone; `chmod -R g+rX` gives it to a group.

    Args:
      folder: made if absent.
      checkpoint: `tf.train.Checkpoint` of all that a resumed run needs.
      settings: dict of what must not change between a run and its resumption.
    """

    def __init__(self, folder, checkpoint, settings):
        self.folder, self.checkpoint, self.settings = Path(folder), checkpoint, settings
        self.checkpoint.histories = self.histories = _Rows()
        self.lock = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Let other processes use the folder."""
        self.lock.close()

    def open(self, resume, history):
        """Begin a run in the folder, or with `resume` restore its last checkpoint and the history up to it.

        Raises:
          FileExistsError: the folder holds checkpoints already, and `resume` is false.
          OSError: the folder cannot be written to, or another process's run uses it.
          ValueError: they belong to a run with other settings, or none of them can be read. Where only
            the newest is damaged, the one before it is taken, and a line on stderr says so.
        """
        self.lock.enter_context(files.held(self.folder))
        folder = self.folder / "checkpoints"
        begun = bool(saved(self.folder)) or (folder / "checkpoint").exists()
        if begun and not resume:
            raise FileExistsError(
                f"{self.folder} holds a run already: resume it, give another folder, or remove it first"
            )
        if begun:
            self._compare()
            self._restore(saved(self.folder))
            history.steps.extend(self.histories.rows["steps"])
            history.epochs.extend(self.histories.rows["epochs"])
        else:
            files.write(self.folder / "settings.json", json.dumps(self.settings, indent=1) + "\n")
        self.manager = tf.train.CheckpointManager(self.checkpoint, str(folder), max_to_keep=2, checkpoint_name="step")

    def _compare(self):
        """Stop at any setting that the run in the folder had otherwise."""
        path = self.folder / "settings.json"
        try:
            before = dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"cannot resume in {self.folder}: its settings.json is missing or damaged ({error}). Put a good copy "
                "in its place, or give another folder."
            ) from error
        for key in before | self.settings:
            earlier, now = before.get(key), self.settings.get(key)
            if earlier != now:
                raise ValueError(
                    f"cannot resume in {self.folder}: its run had {key} = {earlier!r}, this one has {now!r}. "
                    "Give the same setting, or another folder."
                )

    def _restore(self, paths):
        """Restore the newest of the checkpoints that can be read."""
        for path in reversed(paths):
            try:
                self.checkpoint.restore(path).assert_existing_objects_matched()
            except Exception as error:  # TensorFlow raises whatever the damage makes it stumble over
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                print(f"{self.folder}: {Path(path).name} cannot be read ({reason})", file=sys.stderr)
                continue
            self._list(paths)
            return
        raise ValueError(f"{self.folder} holds no checkpoint that can be read; remove the folder to start anew")

    def _list(self, paths):
        """Give TensorFlow a list of the checkpoints that is whole."""
        times = [os.path.getmtime(f"{path}.index") for path in paths]
        folder = self.folder / "checkpoints"
        try:
            tf.compat.v1.train.update_checkpoint_state(
                str(folder), paths[-1], paths, all_model_checkpoint_timestamps=times
            )
        except tf.errors.OpError as error:
            raise OSError(f"{folder}/checkpoint cannot be written ({error.message})") from error

    def save(self, step, history):
        """Save a checkpoint named by `step`, the CSV files first: rows that are ahead of it do no harm.

        Raises:
          OSError: it cannot be written; what was there before is whole.
        """
        self.histories.rows = {"epochs": history.epochs, "steps": history.steps}
        try:
            files.write_csv(self.folder / "history.csv", history.epochs)
            files.write_csv(self.folder / "steps.csv", history.steps)
            self.manager.save(checkpoint_number=step)
        except (OSError, tf.errors.OpError) as error:
            kept = [Path(path).name for path in saved(self.folder)]
            for part in (self.folder / "checkpoints").glob("step-*"):
                if part.is_dir():  # where TensorFlow puts the parts until all are there
                    shutil.rmtree(part, ignore_errors=True)
                elif part.name.partition(".")[0] not in kept:
                    with contextlib.suppress(OSError):
                        part.unlink()
            raise OSError(
                f"the checkpoint of step {step} cannot be written in {self.folder} "
                f"({str(error).strip().splitlines()[0]}). "
                + (f"{kept[-1]} is whole: make room, then resume" if kept else "There is none yet: make room first")
            ) from error
