"""The folder of a training run: its settings, its history as CSV, and its checkpoints."""

import contextlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

from helpers import files, keras2  # noqa: F401
from helpers.distributed import World
from helpers.runs.folder import OWN_CHECKPOINT, literal, remove, require_own, saved
from helpers.runs.history import History

import tensorflow as tf
import tf_keras as keras


def restore_model(model: keras.Model, folder: Path | str, optimizer: keras.optimizers.Optimizer | None = None) -> None:
    """Give `model` the weights of the last checkpoint of the run in `folder`.

    Args:
      model: a built model like the one of the run.
      folder: the folder of the run.
      optimizer: an optimiser like the one of the run, which gets its state if you need that as well, as for the
        posterior of `methods.ivon.IVON`.

    Raises:
      ValueError: there is no checkpoint, or it does not fit the model or the optimiser.
    """
    path = next(reversed(saved(folder)), None)
    if path is None:
        raise ValueError(f"{folder} holds no checkpoint. Give the folder of a run, as helpers.train leaves it.")
    parts = {"model": model}
    if optimizer is not None:
        optimizer.build(model.trainable_variables)
        parts["optimizer"] = optimizer
    try:
        tf.train.Checkpoint(**parts).restore(literal(path)).assert_existing_objects_matched().expect_partial()
    except Exception as error:  # the kind of TensorFlow's error depends on the damage
        reason = _reason(error, path)
        whom = model.name if optimizer is None else f"{model.name} or the optimiser"
        raise ValueError(f"{path} does not fit the model {whom}: {reason}") from error


def _reason(error: Exception, path: Path | str) -> str:
    """Return the first line of TensorFlow's message, with the path as the user knows it."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.replace(literal(path), str(path))


class _Rows(tf.train.experimental.PythonState):
    """The histories up to a checkpoint's step. The checkpoint holds them under its checksums."""

    def __init__(self):
        self.rows = {"epochs": [], "steps": []}

    def serialize(self):
        return json.dumps(self.rows)

    def deserialize(self, string_value):
        self.rows = json.loads(string_value)


class Checkpoints:
    """settings.json, history.csv, steps.csv and checkpoints/ in a run's folder. Rank 0 alone uses the folder.

    The CSV files are for reading. A resumed run reads the checkpoints, which hold the histories too, and each part of
    which has a checksum. The folder is its owner's alone; `chmod -R g+rX` gives it to a group.

    Args:
      folder: made if absent; None keeps nothing.
      world: the ranks, all of which call the same methods.
      checkpoint: all that a resumed run needs.
      settings: what must not change between a run and its resumption.
    """

    def __init__(self, folder: Path | str | None, world: World, checkpoint: tf.train.Checkpoint, settings: dict):
        self.folder, self.world = files.expanded(folder or "."), world
        self.kept = folder is not None
        self.history = History([], [])
        try:
            # As they will be read from the file: a tuple, for one, becomes a list.
            self._checkpoint, self._settings = checkpoint, json.loads(json.dumps(settings))
        except TypeError as error:
            raise ValueError(f"the settings of a run must be plain numbers, texts and lists: {error}") from error
        self._rows = _Rows()
        if self.kept:
            checkpoint.histories = self._rows
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    def between_steps(self) -> None:
        """Do nothing. All ranks call it when everything that belongs to a checkpoint's step is done."""

    def open(self, resume: bool) -> None:
        """Begin a run in the folder, or with `resume` restore its last checkpoint and the history up to it.

        Raises:
          FileExistsError: the folder holds checkpoints already, and `resume` is false.
          OSError: the folder cannot be written to, or another process's run uses it.
          ValueError: the checkpoints belong to a run with other settings, or none of them can be read. If only the
            newest is damaged, the one before it is taken, and a line on stderr says so.
        """
        if not self.kept:
            return
        with contextlib.ExitStack() as stack:
            stack.enter_context(files.held(self.folder))
            self._begin(resume)
            self._lock = stack.pop_all()  # until the end of the run, unless it could not begin

    def _begin(self, resume):
        folder = self.folder / "checkpoints"
        begun = bool(saved(self.folder)) or (folder / "checkpoint").exists()
        if begun and not resume:
            raise FileExistsError(
                f"{self.folder} holds a run already. Resume it, give another folder, or remove it first."
            )
        if begun:
            self._compare()
            self._restore(saved(self.folder))
            self.history = History(self._rows.rows["epochs"], self._rows.rows["steps"])
        else:
            require_own(self.folder)
        self._try_writing(folder)
        if not begun:
            files.write(self.folder / "settings.json", json.dumps(self._settings, indent=1) + "\n")
        how = {"max_to_keep": 2, "checkpoint_name": "step"}
        self._manager = tf.train.CheckpointManager(self._checkpoint, literal(folder), **how)

    def _try_writing(self, folder):
        """Write a checkpoint and remove it, so that what prevents checkpoints is known before the training."""
        place = folder / "step-0_temp"  # a name that `remove` knows, should the process be killed
        try:
            folder.mkdir(exist_ok=True)
            place.mkdir(exist_ok=True)
            self._checkpoint.write(literal(place / "trial"))
        except (OSError, tf.errors.OpError) as error:
            raise OSError(
                f"no checkpoint can be written in {folder} ({_reason(error, place / 'trial')}). "
                "Make room or put right what is in the way, or give another folder."
            ) from error
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _compare(self):
        """Refuse to resume if the run in the folder had another setting."""
        path = self.folder / "settings.json"
        try:
            before = dict(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"cannot resume in {self.folder}: its settings.json is missing or damaged ({error}). Put a good copy "
                "in its place, or give another folder."
            ) from error
        for key in before | self._settings:
            earlier, now = before.get(key), self._settings.get(key)
            if earlier != now:
                raise ValueError(
                    f"cannot resume in {self.folder}: its run had {key} = {earlier!r}, this one has {now!r}. "
                    "Give the same setting, or another folder."
                )

    def _restore(self, paths):
        """Restore the newest of the checkpoints that can be read."""
        for path in reversed(paths):
            try:
                self._checkpoint.restore(literal(path)).assert_existing_objects_matched()
            except Exception as error:  # the kind of TensorFlow's error depends on the damage
                said = f"{Path(path).name} cannot be read ({_reason(error, path)})"
                print(f"{self.folder}: {said}", file=sys.stderr)
                continue
            self._list(paths)
            return
        raise ValueError(f"{self.folder} holds no checkpoint that can be read; remove the folder to start anew")

    def _list(self, paths):
        """Give TensorFlow a list of the checkpoints that is whole."""
        times = [os.path.getmtime(f"{path}.index") for path in paths]
        folder = self.folder / "checkpoints"
        try:
            names = [Path(path).name for path in paths]
            tf.compat.v1.train.update_checkpoint_state(
                literal(folder), names[-1], names, all_model_checkpoint_timestamps=times
            )
        except tf.errors.OpError as error:
            raise OSError(f"{folder}/checkpoint cannot be written ({error.message})") from error

    def save(self, step: int, history: History) -> None:
        """Save a checkpoint named by `step` on rank 0, after the CSV files, whose rows may be ahead of it without harm.

        Raises:
          OSError: it cannot be written. What was there before is whole.
          RankFailure: saving failed on rank 0, and this is another rank.
        """
        if self.kept:
            self.world.on_first(lambda: self._save(step, history))

    def _save(self, step, history):
        self._rows.rows = {"epochs": history.epochs, "steps": history.steps}
        try:
            files.write_csv(self.folder / "history.csv", history.epochs)
            files.write_csv(self.folder / "steps.csv", history.steps)
            self._manager.save(checkpoint_number=step)
        except (OSError, tf.errors.OpError) as error:
            kept = [Path(path).name for path in saved(self.folder)]
            whole = "".join(rf"(?!{name}\.)" for name in kept)
            with contextlib.suppress(OSError):
                remove(self.folder / "checkpoints", re.compile(rf"{whole}(?=step-)({OWN_CHECKPOINT.pattern})"))
            raise OSError(
                f"the checkpoint of step {step} cannot be written in {self.folder} "
                f"({str(error).strip().splitlines()[0]}). "
                + (f"{kept[-1]} is whole: make room, then resume" if kept else "There is none yet: make room first")
            ) from error
