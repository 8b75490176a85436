"""Load a data set, identify it by its content, and say where it comes from."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from helpers import ROOT
from helpers.data import download, layouts, standin
from helpers.data.catalogue import DATASETS
from helpers.data.readers import Arrays, DataError, OtherData, content_sha256, shown
from helpers.data.records import Content, Record
from helpers.files import expanded

import numpy as np


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images and labels, which are read-only, and what is known about their origin.

    Attributes:
      name: What the content is; a stand-in or a changed copy has its own name.
      source: What it is and where it comes from, in words.
      sha256: The `content_sha256` of its arrays.
      official: Whether it is the complete, unchanged data set.
      label_names: The name of each class.
      x_train, x_test: Images, uint8 [N, H, W, C].
      y_train, y_test: Labels, int32 [N].
    """

    name: str
    source: str
    sha256: str
    official: bool
    label_names: tuple[str, ...]
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(H, W, C) of one image."""
        return self.x_train.shape[1:]

    @property
    def num_classes(self) -> int:
        return len(self.label_names)

    @property
    def provenance(self) -> str:
        """One line to put beside a table or under a figure."""
        official = "official" if self.official else "not official"
        return f"{self.name}: {self.source} [{official}, SHA-256 {self.sha256[:12]}]"

    def __str__(self) -> str:
        return self.provenance

    __repr__ = __str__


def load(name: str, folder: str | Path | None = None, quiet: bool = False) -> Dataset:
    """Load a data set from a file, or by downloading it.

    If neither is possible and no folder but data/ was named, neither here nor by $BNN_DATA_DIR, a stand-in that says so
    takes its place.

    Args:
      name: A key of `catalogue.DATASETS`, such as "mnist"; case, hyphens and underscores do not matter.
      folder: Where files are looked for and downloaded to, or the one file that is to be read. None means $BNN_DATA_DIR
        or, without that, data/ here.
      quiet: Show no progress bar and no line about a stand-in, as $BNN_QUIET=1 does.

    $BNN_OFFLINE=1 leaves out the download.

    Returns:
      The data set.

    Raises:
      DataError: The name is unknown, a file is not what it should be, a download went wrong, or the data set is not in
        the folder that was named and cannot be downloaded into it.
    """
    record = {_plain(known): record for known, record in DATASETS.items()}.get(_plain(name))
    if record is None:
        raise DataError(f"There is no data set {name!r}. Expected one of: {', '.join(DATASETS)}.")
    default = ROOT / "data"
    try:
        place = expanded(folder or os.environ.get("BNN_DATA_DIR") or default)
    except ValueError as error:
        raise DataError(str(error)) from error
    named = place != default  # job scripts and kernels of a hub may give the default folder too
    quiet = quiet or _is_set("BNN_QUIET")
    found, reason = _find(record, place, named)
    if found is None and _is_set("BNN_OFFLINE"):
        reason += ", and $BNN_OFFLINE is set"
    elif found is None:
        try:
            download.fetch(record, place, quiet)
            found, reason = _find(record, place, named)
        except download.Unavailable as error:
            reason += f", and no download is possible ({error})"
    if found is not None:
        return _identified(record, *found)
    if named or record.stand_in is None:
        raise DataError(f"{reason}. Put there, or into a folder in it, one of: {record.looked_for}.")
    return _stand_in(record, f"{reason}.", quiet)


def _find(record: Record, place: Path, named: bool) -> tuple[tuple[Arrays, str, bool] | None, str]:
    """Return what `layouts.find` returns, and why it is None."""
    reason = f"{record.title} is not in {shown(place)}"
    try:
        return layouts.find(record, place, named), reason
    except OtherData as error:
        return None, f"{reason} ({error})"


def _plain(name: str) -> str:
    return str(name).lower().replace("-", "").replace("_", "")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "0") not in ("", "0")


_ANNOUNCED: set[str] = set()  # names of the data sets whose stand-in this process has announced


def _stand_in(record: Record, reason: str, quiet: bool) -> Dataset:
    """Make what stands in for a data set, and announce it once."""
    facts = record.stand_in
    assert facts is not None
    arrays = standin.MAKERS[facts.name](*facts.counts)
    source = f"stand-in for {record.title}: {facts.description}"
    dataset = _dataset(facts.name, source, facts.label_names, arrays, official=False)
    if not quiet and record.name not in _ANNOUNCED:
        _ANNOUNCED.add(record.name)
        print(f"{reason} It is replaced by {dataset}", file=sys.stderr)
    return dataset


def _identified(record: Record, arrays: Arrays, file: str, genuine: bool) -> Dataset:
    """Make the Dataset of these arrays, and name it after what they are instead of after the file.

    Raises:
      DataError: The arrays are another data set.
    """
    title, sha256 = record.title, content_sha256(arrays)
    for other in DATASETS.values():
        if other is not record and sha256 in other.known:
            what = other.known[sha256].description
            raise DataError(f"{file} holds {what}, but {title} was expected. Give the file its own name.")
    if sha256 in record.known:
        content = record.known[sha256]
    elif genuine:
        content = Content(record.name, f"official {title}", True)
    elif content_sha256(arrays[1::2]) == record.labels_sha256:
        what = f"official labels of {title} with pixels of no known copy"
        content = Content(f"{record.name}-unverified", what, False)
    else:
        content = Content(f"{record.name}-unverified", f"in the layout of {title}, but no known copy of it", False)
    source = f"{content.description}, {len(arrays[0]):,} + {len(arrays[2]):,} images, from {file}"
    return _dataset(content.name, source, record.label_names, arrays, content.official, sha256)


def _dataset(
    name: str, source: str, label_names: tuple[str, ...], arrays: Arrays, official: bool, sha256: str | None = None
) -> Dataset:
    """Make a Dataset whose arrays are read-only."""
    for array in arrays:
        array.setflags(write=False)
    return Dataset(name, source, sha256 or content_sha256(arrays), official, label_names, *arrays)
