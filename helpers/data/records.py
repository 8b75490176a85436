"""Define the records in which `catalogue` describes each data set. No code here reads a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class File:
    """A file, or several in one folder, from which a data set is read.

    Attributes:
      path: The name of the file; "." stands for `parts` in any folder, and an absolute path for `parts` in that folder.
      layout: A key of `layouts.READERS`.
      also: Other names of the same file. `layouts.plain` says which variants of a name need not be listed.
      parts: The files inside a folder or an archive, in the order in which they are read. Each has its published MD5,
        or "" if none is published.
      counts: Numbers of training and test examples, where the file does not hold the whole data set.
      title: What messages call the files instead of the path of their folder.
    """

    path: str
    layout: str = "npz"
    also: tuple[str, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    counts: tuple[int, int] | None = None
    title: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which the file, or each file of the folder, is known."""
        return tuple(self.parts) if self.in_folder else (self.path, *self.also)

    @property
    def in_folder(self) -> bool:
        """Whether the data set lies in several files of one folder."""
        return self.path == "." or self.path.startswith("/")


@dataclass(frozen=True)
class Download:
    """A file to fetch: its path in the data folder, its URL, its size in bytes and its published SHA-256."""

    path: str
    url: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Content:
    """Arrays that are known by their `content_sha256`: what `Dataset.name` calls them, what they are, and of what kind.

    `official` is True for the complete, unchanged data set only.
    """

    name: str
    description: str
    official: bool


@dataclass(frozen=True)
class StandIn:
    """Images that take the place of a data set that cannot be had; `name` is a key of `standin.MAKERS`."""

    name: str
    description: str
    counts: tuple[int, int]
    label_names: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """Every fact about one data set.

    Attributes:
      name: What `data.load` and the flag --dataset call it.
      title: What text calls it.
      shape: (height, width, channels) of an image.
      counts: Numbers of training and test examples.
      label_names: The name of each class.
      files: Where it is read from; the first that exists is used.
      own: A regular expression that the path of a folder matches if it names this data set.
      other: The same for a data set whose files have the same names. Such folders are not searched.
      downloads: The files that are fetched if none of `files` exists; all of them from the host of the first.
      known: The contents that have been identified, by their `content_sha256`.
      labels_sha256: The `content_sha256` of the training labels and the test labels, or "" if it is not known.
      stand_in: What takes its place, or None if nothing does.
    """

    name: str
    title: str
    shape: tuple[int, int, int]
    counts: tuple[int, int]
    label_names: tuple[str, ...]
    files: tuple[File, ...]
    own: str = "$."
    other: str = "$."
    downloads: tuple[Download, ...] = ()
    known: Mapping[str, Content] = field(default_factory=dict)
    labels_sha256: str = ""
    stand_in: StandIn | None = None

    @property
    def looked_for(self) -> str:
        """The names of all files from which it is read, for messages."""
        files = [file for file in self.files if not file.path.startswith("/") and file.layout != "Kaggle's csv"]
        return "; ".join(f"{f.title} ({', '.join(f.names)})" if f.in_folder else " or ".join(f.names) for f in files)
