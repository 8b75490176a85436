"""Let the ranks of a node share one copy of a data set, in files that all of them map into memory."""

import contextlib
import socket
import tempfile
from pathlib import Path

from helpers.data.dataset import Dataset, load
from helpers.data.readers import KEYS, DataError
from helpers.distributed.world import ALONE, World
from helpers.files import expanded

import numpy as np

_FACTS = ("name", "source", "sha256", "official", "label_names")


def load_mapped(
    name: str, place: str | Path, world: World = ALONE, folder: str | Path | None = None, quiet: bool = False
) -> Dataset:
    """Load a data set once for each node, as `load` does it once for each rank.

    The rank with local rank 0 of each node reads the data set and writes its arrays into files in `place`. All ranks of
    the node map these files into memory, so the node holds each byte once, and reads a page when a rank needs it. As
    soon as all ranks have mapped them, the files lose their names, and their space is free when the last rank ends.
    If the job is killed before that, a folder bnn-data-* stays in `place`.

    Every rank calls this function.

    Args:
      name: as in `load`.
      place: an existing folder on a disk of the node or in its memory, such as /local/scratch or /dev/shm, but not on a
        file system that nodes share.
      world: the ranks.
      folder, quiet: as in `load`.

    Returns:
      The data set that `load` returns, with arrays of type `np.memmap`. `batches` copies only the examples of a batch.

    Raises:
      DataError: see `load`; or the arrays do not fit into `place`, or it is no folder.
      RankFailure: another rank raised one of these.
    """
    here, mine, failure = socket.gethostname(), None, None
    with contextlib.ExitStack() as stack:
        if world.local_rank == 0:
            try:
                if not str(place):
                    raise DataError("The folder for the shared data has an empty name. Is a variable unset?")
                mine = _written(load(name, folder, quiet), expanded(place), stack)
            except (DataError, OSError, ValueError) as error:
                failure = error
        world.agree(failure)
        path, facts = next(found for host, found in world.gather_objects((here, mine)) if found and host == here)
        arrays = {}
        try:
            arrays = {key: np.load(Path(path, f"{key}.npy"), mmap_mode="r") for key in KEYS}
        except (OSError, ValueError, EOFError) as error:  # the file is gone or cut off
            failure = DataError(f"cannot map what local rank 0 of {here} wrote to {place}: {error}")
        world.agree(failure)  # from here on nobody needs the names of the files
    return Dataset(**facts, **arrays)


def _written(dataset: Dataset, place: Path, stack: contextlib.ExitStack) -> tuple[str, dict]:
    """Write the arrays into a folder that the stack removes; return its path and what is known about them."""
    try:
        path = stack.enter_context(tempfile.TemporaryDirectory(prefix="bnn-data-", dir=place))
        for key in KEYS:
            np.save(Path(path, f"{key}.npy"), getattr(dataset, key))
    except OSError as error:
        size = sum(getattr(dataset, key).nbytes for key in KEYS)
        raise DataError(
            f"cannot write the {size / 1e6:.0f} MB of {dataset.name} to {place} ({error.strerror or error}). Name"
            " another folder on a disk of the node."
        ) from error
    return path, {fact: getattr(dataset, fact) for fact in _FACTS}
