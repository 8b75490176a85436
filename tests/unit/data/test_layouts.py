"""The layouts in which libraries, web sites, browsers and archivers leave data sets."""

import gzip
import tarfile

from helpers import data
from helpers.data import layouts
from helpers.data.catalogue import DATASETS
from helpers.train import choices

import numpy as np
import pytest

from tests.support.damage import images
from tests.unit.data.conftest import BATCHES, IDX_FILES, batches, npz, same, write_batches, write_idx


def other(name):
    """Another data set of the same shape: the images of `images`, inverted."""
    x, y, x_test, y_test = images(name)
    return 255 - x, y, 255 - x_test, y_test


def rename(folder, change):
    """Give each idx file another name, and the content that its name asks for."""
    for file in IDX_FILES:
        content = (folder / file).read_bytes()
        (folder / file).unlink()
        path = folder / change(file)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if path.suffix == ".gz" else gzip.decompress(content))


NAMINGS = {
    "LeCun": lambda file: file,
    "unpacked": lambda file: file[:-3],
    "7-Zip": lambda file: file[:-3].replace("-idx", ".idx"),
    "gzipped anew": lambda file: file.replace("-idx", ".idx"),
    "second download": lambda file: file.replace(".gz", " (1).gz"),
    "capitals": lambda file: file[:-3].upper(),
    "a folder for each": lambda file: f"{file[:-3]}/{file[:-3].replace('-idx', '.idx')}",
    "unpacked by the browser": lambda file: f"{file[:-3]}(2)",
}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("place", ["", "MNIST/raw", "mnist", "MNIST_data", "input_data", "a/b/MNIST"])
def test_idx_files_of_mnist_are_found(tmp_path, naming, place):
    write_idx(tmp_path / place, images("mnist"))
    rename(tmp_path / place, NAMINGS[naming])
    (tmp_path / place / "._train-images-idx3-ubyte").write_bytes(b"what macOS adds")
    for given in (tmp_path, tmp_path / place):
        loaded = data.load("mnist", choices.data_folder(str(given), "mnist"))
        assert same(loaded, images("mnist"))
        assert f"from {given == tmp_path and place or 'the idx files'} [" in loaded.provenance


def test_folders_of_other_data_sets_are_not_searched(tmp_path):
    write_idx(tmp_path / "FashionMNIST" / "raw", other("fashion_mnist"))
    write_idx(tmp_path / "KMNIST" / "raw", other("mnist"))
    with pytest.raises(data.DataError, match="MNIST is not in"):
        data.load("mnist", tmp_path)
    write_idx(tmp_path / "MNIST" / "raw", images("mnist"))
    assert same(data.load("mnist", tmp_path), images("mnist"))
    assert same(data.load("fashion_mnist", tmp_path), other("fashion_mnist"))


def test_a_folder_that_says_its_data_set_comes_before_files_that_do_not(tmp_path):
    write_idx(tmp_path, images("mnist"))
    write_idx(tmp_path / "fashion-mnist", other("fashion_mnist"))
    assert same(data.load("mnist", tmp_path), images("mnist"))
    assert same(data.load("fashion_mnist", tmp_path), other("fashion_mnist"))


def test_labels_tell_which_data_set_idx_files_are(tmp_path, change):
    x, y, x_test, y_test = other("fashion_mnist")
    fashion = (x, y[::-1], x_test, y_test)
    write_idx(tmp_path, fashion)
    change("fashion_mnist", labels_sha256=data.content_sha256(fashion[1::2]))
    assert same(data.load("fashion_mnist", tmp_path), fashion)
    with pytest.raises(data.DataError, match=r"MNIST is not in .* \(the idx files there are those of Fashion-MNIST\)"):
        data.load("mnist", tmp_path)
    with pytest.raises(data.DataError, match="but found those of Fashion-MNIST"):
        data.load("mnist", tmp_path / IDX_FILES[0])


def test_a_folder_that_leads_back_to_itself_is_searched_once(tmp_path):
    (tmp_path / "again").symlink_to(tmp_path)
    write_idx(tmp_path / "mnist", images("mnist"))
    assert same(data.load("mnist", tmp_path), images("mnist"))
    assert len(list(layouts._folders(tmp_path, DATASETS["mnist"]))) == 2


def test_a_search_ends_where_there_are_too_many_files(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(layouts, "MOST", 3)
    for number in range(4):
        (tmp_path / "a" / str(number)).mkdir()
    assert len(list(layouts._folders(tmp_path, DATASETS["mnist"]))) == 2
    (tmp_path / "mnist.npz").write_bytes(npz())
    assert same(data.load("mnist", tmp_path), images("mnist"))  # the folder itself is always looked at


# CIFAR-10


@pytest.mark.parametrize("place", ["", "cifar-10-python", "cifar-10-batches-py", "cifar10", "a/cifar10-data"])
@pytest.mark.parametrize("renamed", [False, True])
def test_batches_are_found(tmp_path, place, renamed):
    folder = write_batches(tmp_path / place, batches(images("cifar10")))
    if renamed:
        folder = folder.rename(folder.with_name("CIFAR"))
    write_batches(tmp_path / "cifar-100-python", batches(other("cifar10")))
    for given in (tmp_path, tmp_path / place, folder, folder / BATCHES[0]):
        loaded = data.load("cifar10", choices.data_folder(str(given), "cifar10"))
        assert same(loaded, images("cifar10"))


@pytest.mark.parametrize(
    "name",
    [
        "cifar-10-python.tar.gz",
        "cifar-10-batches-py.tar.gz",
        "cifar-10-python (1).tar.gz",
        "cifar-10-python(1).tar.gz",
        "cifar-10-python.tar.gz.1",
        "cifar-10-python.tar",
        "cifar-10-python.tgz",
        "cifar10/CIFAR-10-python.tar.gz",
        "cifar-10-batches-py-target_archive",
        "cifar-10-python.tar/cifar-10-python.tar",
        "anything.bin",
    ],
)
def test_the_archive_is_found_under_the_names_it_gets(tmp_path, name):
    folder = write_batches(tmp_path / "hidden", batches(images("cifar10")))
    (tmp_path / "given" / name).parent.mkdir(parents=True)
    with tarfile.open(tmp_path / "given" / name, "w" if name.endswith(".tar") else "w:gz") as archive:
        archive.add(folder, folder.name)
    given = [tmp_path / "given" / name] + [tmp_path / "given"] * (name != "anything.bin")
    for place in given:
        loaded = data.load("cifar10", place)
        assert same(loaded, images("cifar10")) and name.rpartition("/")[2] in loaded.provenance


# Files that are named, and single files


def test_the_file_that_is_named_is_the_one_that_is_read(tmp_path):
    first, second = images("cifar10"), other("cifar10")
    (tmp_path / "cifar10.npz").write_bytes(npz("cifar10"))
    folder = write_batches(tmp_path, batches(second))
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    (tmp_path / "my images.npz").write_bytes(npz("cifar10", x_train=second[0], x_test=second[2]))
    assert same(data.load("cifar10", tmp_path), first)
    for name in ("cifar-10-python.tar.gz", "cifar-10-batches-py", "my images.npz"):
        loaded = data.load("cifar10", tmp_path / name)
        assert same(loaded, second), name
        assert name in loaded.provenance
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"")
    with pytest.raises(data.DataError, match="cifar-10-python.tar.gz in .* cannot be used"):
        data.load("cifar10", tmp_path / "cifar-10-python.tar.gz")


def test_of_two_copies_of_an_idx_file_the_named_one_is_read(tmp_path):
    write_idx(tmp_path, images("mnist"))
    write_idx(tmp_path / "new", other("mnist"))
    second = (tmp_path / "new" / IDX_FILES[0]).rename(tmp_path / "train-images-idx3-ubyte (1).gz")
    assert np.array_equal(data.load("mnist", tmp_path / IDX_FILES[0]).x_train, images("mnist")[0])
    assert np.array_equal(data.load("mnist", second).x_train, other("mnist")[0])
    (tmp_path / IDX_FILES[3]).unlink()
    with pytest.raises(data.DataError, match=r"\(1\).gz: MNIST also needs the other files of .*t10k-labels-idx1-ubyte"):
        data.load("mnist", second)


@pytest.mark.parametrize("name", ["mnist.npz", "MNIST.npz", "mnist (1).npz", "datasets/mnist.npz"])
def test_an_archive_of_keras_is_found(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(npz())
    (tmp_path / "fashion_mnist.npz").write_bytes(npz(x_train=other("mnist")[0]))
    loaded = data.load("mnist", tmp_path)
    assert same(loaded, images("mnist")) and f"from {name} [" in loaded.provenance


# Tables


def table(x, y, titles):
    rows = np.concatenate([y[:, None], x.reshape(len(x), -1)], axis=1)
    lines = [",".join(map(str, row)) for row in rows]
    return "\n".join([",".join(["label", *(f"pixel{n}" for n in range(rows.shape[1] - 1))])] * titles + lines) + "\n"


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("titles", [False, True])
def test_tables_with_labels_are_read(tmp_path, name, titles):
    arrays = images(name)
    for part, content in zip(("train", "test"), (arrays[:2], arrays[2:]), strict=True):
        path = tmp_path / f"{name.replace('_', '-')}_{part}.csv"
        path.write_text(table(*content, titles))
    for given in (tmp_path, path):
        assert same(data.load(name, given), arrays)
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    text = path.read_text()
    path.unlink()
    assert same(data.load(name, tmp_path), arrays)
    packed.unlink()
    if titles:
        path.write_text(text.replace("label", "class"))
        with pytest.raises(data.DataError, match="test.csv that begins with 'class,pixel0"):
            data.load(name, tmp_path)
    else:  # a table whose labels come last has nothing but the images' first pixel in its first column
        path.write_text("".join(",".join(["0", *line.split(",")[2:], line[0]]) + "\n" for line in text.splitlines()))
        with pytest.raises(data.DataError, match="y_test with the label 0 alone"):
            data.load(name, tmp_path)


def test_a_table_without_labels_for_the_test_is_refused(tmp_path):
    x, y, *_ = images("mnist")
    (tmp_path / "train.csv").write_text(table(x, y, True))
    for given in (tmp_path, tmp_path / "train.csv"):
        with pytest.raises(
            data.DataError, match=r"train.csv of Kaggle's .* have no labels, .* \(use mnist.npz instead\)"
        ):
            data.load("mnist", given)
    (tmp_path / "train.csv").write_text("PassengerId,Survived\n1,0\n")
    with pytest.raises(data.DataError, match=r"MNIST is not in .* \(train.csv there are no table of digits\)"):
        data.load("mnist", tmp_path)
