"""The names in a run's folder: which files are the run's own, and how TensorFlow reads a path as it is written."""

import atexit
import contextlib
import functools
import json
import re
import shutil
import tempfile
from pathlib import Path

from helpers import files, keras2  # noqa: F401

import tensorflow as tf

# With the temporary names that a killed process leaves: those of `files.write`, and those of TensorFlow.
_NAMES = r"settings\.json|history\.csv|steps\.csv|config\.json|validation\.json|summary\.json|weights_\d{6,}\.png"
OWN = re.compile(rf"({_NAMES})|\.({_NAMES})\.[0-9a-f]{{8}}")
OWN_CHECKPOINT = re.compile(
    r"checkpoint(\.tmp[0-9a-f]{32})?|step-\d+(_temp|\.index|\.data-\d{5}-of-\d{5})(\.tempstate\d+)?"
)
FIT_SETTINGS = {"model", "examples", "batch_size", "seed"}  # what `fit` writes into every settings.json


def saved(folder: Path | str) -> list[str]:
    """Return the paths of the checkpoints of the run in `folder`, without their endings, in the order of their saving.

    TensorFlow's own list of them has no checksum. It counts if it names exactly those that are there. Otherwise the
    times of the files count. The numbers in their names do not, because a run that continues with more ranks counts
    fewer steps.
    """
    folder = files.expanded(folder) / "checkpoints"
    indices = [path for path in folder.glob("step-*.index") if OWN_CHECKPOINT.fullmatch(path.name)]
    times = {path.stem: path.stat().st_mtime_ns for path in indices}
    names = []
    with contextlib.suppress(ValueError):
        state = tf.train.get_checkpoint_state(literal(folder))
        names = [Path(path).name for path in state.all_model_checkpoint_paths] if state else []
    if sorted(names) != sorted(times):
        names = sorted(times, key=times.__getitem__)
    return [str(folder / name) for name in names]


def literal(path: Path | str) -> str:
    """Return a path to the same folder or checkpoint that TensorFlow cannot take for a pattern.

    TensorFlow takes `[`, `*`, `?` and a backslash in the path of a checkpoint for a pattern when it reads and deletes
    (its issue 34290), and it takes only UTF-8. A path with any of these is reached through a symbolic link.
    """
    path = Path(path).absolute()
    if _is_plain(str(path)):
        return str(path)
    return f"{_link(path.parent)}/{path.name}"


def _is_plain(text: str) -> bool:
    return not re.search(r"[\[*?\\\ud800-\udfff]", text)


@functools.cache
def _link(folder: Path) -> str:
    """Return a link to the folder, which lasts as long as this process, since TensorFlow may read a weight late."""
    place = tempfile.mkdtemp(dir=None if _is_plain(tempfile.gettempdir()) else "/tmp")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    Path(place, "run").symlink_to(folder)
    return f"{place}/run"


def require_own(folder: Path) -> None:
    """Check that what is in the folder under the names of a run's files is a run's.

    Raises:
      FileExistsError: it is not, and a run would write over it.
    """
    names = sorted(path.name for path in folder.iterdir() if OWN.fullmatch(path.name))
    if names and not _is_run(folder):
        raise FileExistsError(
            f"{folder} holds no run, but {', '.join(names)}, which a run would write over. Give another folder."
        )


def empty(folder: Path) -> None:
    """Remove the run in the folder: the files that runs write, and nothing else.

    Raises:
      FileExistsError: there are other files in the folder, and no run.
    """
    others = sorted(path.name for path in folder.iterdir() if path.name != files.NAME)
    if others and not _is_run(folder):
        raise FileExistsError(
            f"{folder} holds no run that --overwrite could remove, but {', '.join(others[:3])}"
            f"{' and more' * (len(others) > 3)}. Give another folder, or leave out --overwrite."
        )
    remove(folder / "checkpoints", OWN_CHECKPOINT)
    with contextlib.suppress(OSError):  # It is a link, or it is not empty.
        (folder / "checkpoints").rmdir()
    # The settings go last, because they tell that this is a run.
    remove(folder, re.compile(rf"(?!settings\.json$)({OWN.pattern})"))
    (folder / "settings.json").unlink(missing_ok=True)


def remove(folder: Path, names: re.Pattern[str]) -> None:
    """Remove the files in `folder` with these names, and the folders in which TensorFlow collects a checkpoint."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if names.fullmatch(path.name):
            if path.is_dir() and not path.is_symlink():
                if path.name.endswith("_temp"):
                    shutil.rmtree(path)
            else:
                path.unlink()


def _is_run(folder: Path) -> bool:
    if saved(folder):
        return True
    try:
        settings = json.loads((folder / "settings.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and settings.keys() >= FIT_SETTINGS
