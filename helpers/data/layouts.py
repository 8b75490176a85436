"""Find the files of a data set in the layouts in which libraries, web sites, browsers and archivers leave them."""

import os
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from helpers.data import cifar10, readers
from helpers.data.readers import Arrays, DataError, OtherData, Paths, checked, expected, shown
from helpers.data.records import File, Record

DEPTH = 3  # levels of folders below the one that is searched
MOST = 20_000  # entries; once so many have been listed, no further folder is opened

READERS: dict[str, Callable[[Paths, Record, File], tuple[Arrays, bool]]] = {
    "npz": readers.read_npz,
    "idx": readers.read_idx,
    "csv": readers.read_csv,
    "Kaggle's csv": readers.refuse_kaggle,
    "batches": cifar10.read_batch_folder,
    "batch archive": cifar10.read_batch_archive,
}


@dataclass(frozen=True)
class _Candidate:
    """A file, or the files of a folder, that have the names of a data set.

    Attributes:
      file: The record whose names they have.
      paths: {name in the record: where it is}.
      label: What messages call them.
      neutral: Whether neither their names nor their folder say of which data set they are.
    """

    file: File
    paths: dict[str, Path]
    label: str
    neutral: bool = False


def plain(name: str) -> str:
    """Return a file's name without what differs between copies of it.

    These are: capitals, a browser's or wget's number of a second download, the point in `train-images.idx3-ubyte`, and
    .gz, because readers see from the content whether a file is compressed.
    """
    name = re.sub(r"[ _-]?\(\d+\)| - copy|\.\d+$", "", name.casefold())
    return name.replace(".idx", "-idx").removesuffix(".gz")


def find(record: Record, place: Path, named: bool = False) -> tuple[Arrays, str, bool] | None:
    """Read a data set from the first of its files that exists.

    The order is that of `record.files`. For each of them, shallow folders come before deep ones, and then the alphabet
    decides. Files whose names do not say of which data set they are come last, unless a folder says it.

    Args:
      record: The data set, from `catalogue.DATASETS`.
      place: The data folder, which is searched together with DEPTH levels of folders below it, or the file to read.
      named: Whether the user named the place, so that nothing outside it may be read.

    Returns:
      None if there is no such file. Otherwise (arrays, label, genuine). `arrays` is (x_train, y_train, x_test, y_test),
      uint8 [N, H, W, C] and int32 [N]. `label` is what messages call the file. `genuine` is True if published checksums
      of the file vouch for the arrays, and False if their origin has yet to be identified.

    Raises:
      OtherData: There is no such file, but there is one with its name that holds something else.
      DataError: The file exists, but it cannot be used. It is left as it is, and no other file is tried.
    """
    alone, other = place.is_file(), None
    for candidate in [_named(record, place)] if alone else _candidates(record, place, named):
        try:
            arrays, genuine = READERS[candidate.file.layout](candidate.paths, record, candidate.file)
            return checked(arrays, record, candidate.file, candidate.neutral), candidate.label, genuine
        except Exception as error:  # a file of unknown origin can fail in any way
            if isinstance(error, OtherData) and not alone:
                other = OtherData(f"{candidate.label} there are {error}")
                continue
            found = str(error) if isinstance(error, DataError) else f"{type(error).__name__} ({error})"
            found = " ".join(found.split())
            where = "" if Path(candidate.file.path).is_absolute() else f" in {shown(place.parent if alone else place)}"
            raise DataError(
                f"{candidate.label}{where} cannot be used: expected {expected(record, candidate.file)}, but found"
                f" {found}. Put a good copy in its place, or move it away so that the data set is fetched again."
            ) from error
    if other:
        raise other
    return None


def _named(record: Record, path: Path) -> _Candidate:
    """Return the data set to which the file belongs that the user named, by its name or else by its content.

    Raises:
      DataError: It belongs to none.
    """
    name = plain(path.name)
    for file in record.files:
        if name not in map(plain, file.names) or Path(file.path).is_absolute():
            continue
        if not file.in_folder:
            return _Candidate(file, {file.path: path}, path.name)
        if paths := _paths(file, {**_files(path.parent, record), name: path}):
            return _Candidate(file, paths, file.title, file.layout == "idx")
        raise DataError(f"{path}: {record.title} also needs the other files of {', '.join(file.names)} in this folder.")
    with open(path, "rb") as opened:
        layout = "npz" if opened.read(4) == b"PK\3\4" else ""
    if not layout and tarfile.is_tarfile(path):
        layout = "batch archive"
    for file in record.files:
        if file.layout == layout:
            return _Candidate(file, {file.path: path}, path.name)
    raise DataError(
        f"{path}: {record.title} is read from a folder or a file named {record.looked_for}. Give one of them."
    )


def _candidates(record: Record, place: Path, named: bool) -> Iterator[_Candidate]:
    """Yield what has the names of the data set, in the order in which it is to be tried."""
    folders = {folder: _files(folder, record) for folder in _folders(place, record)}
    for file in record.files:
        home = Path(file.path)
        if home.is_absolute():
            if not named and (paths := _paths(file, _files(home, record))):
                yield _Candidate(file, paths, file.title)
            continue
        found = []
        for folder, files in folders.items():
            if paths := _paths(file, files):
                inside = folder.relative_to(place).as_posix()
                label = file.title if inside == "." else inside
                if not file.in_folder:
                    label = next(iter(paths.values())).relative_to(place).as_posix()
                neutral = file.layout == "idx" and not re.search(record.own, inside.casefold())
                found.append(_Candidate(file, paths, label, neutral))
        yield from sorted(found, key=lambda candidate: candidate.neutral)


def _folders(place: Path, record: Record) -> Iterator[Path]:
    """Yield the folder and those below it, level by level, without those that are hidden or of another data set."""
    level, seen, listed = [place], set(), 0
    for _ in range(DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            with suppress(OSError):  # what cannot be read or has just been removed holds nothing for us
                real = os.path.realpath(folder)
                if real in seen or listed > MOST:
                    continue
                seen.add(real)
                yield folder
                with os.scandir(folder) as scanned:
                    entries = [(entry.name, entry.is_dir()) for entry in scanned]
                listed += len(entries)
                below += [folder / name for name, is_dir in sorted(entries) if is_dir and not name.startswith(".")]
        level = [f for f in below if not re.search(record.other, f.relative_to(place).as_posix().casefold())]


def _files(folder: Path, record: Record) -> dict[str, Path]:
    """Return {plain name: path} of a folder's files with names of the data set; of two copies the shorter name's."""
    wanted = {plain(name) for file in record.files for name in file.names}
    files: dict[str, Path] = {}
    with suppress(OSError):
        names = [name for name in os.listdir(folder) if not name.startswith(".") and plain(name) in wanted]
        for name in sorted(names, key=lambda name: (name != plain(name), len(name), name)):
            path = folder / name
            if path.is_dir():  # some archivers make a folder for each file, which has the file's name
                path = _files(path, record).get(plain(name), path)
            if path.is_file():
                files.setdefault(plain(name), path)
    return files


def _paths(file: File, files: dict[str, Path]) -> dict[str, Path]:
    """Return {name in the record: path} of a candidate, or {} if there is none among these files."""
    paths = {name: files[plain(name)] for name in file.names if plain(name) in files}
    if not file.in_folder:
        return {file.path: next(iter(paths.values()))} if paths else {}
    # Some of the idx files may be an unfinished download. CIFAR-10's batches are unpacked all at once.
    return paths if len(paths) == len(file.parts) or file.layout == "batches" else {}
