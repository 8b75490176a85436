"""The records of the data sets: they agree with data/README.md, with the readers and with each other."""

import re

from helpers import ROOT, data
from helpers.data import layouts, readers, standin
from helpers.data.catalogue import DATASETS, File, Record

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def genuine(small_files):
    """Undo the small data sets: these tests look at the genuine records."""
    small_files.undo()


def counted(counts):
    return f"{counts[0]:,} + {counts[1]:,}"


def tables():
    """The tables of data/README.md: {first words of the header: rows}."""
    text = (ROOT / "data" / "README.md").read_text()
    found = {}
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
        found[header[0], header[1]] = rows
    return found


def test_the_readme_has_the_tables_of_the_catalogue():
    records, found = DATASETS.values(), tables()
    assert found["name", "title"] == [
        [f"`{r.name}`", r.title, " x ".join(map(str, r.shape)), counted(r.counts), ", ".join(r.label_names)]
        for r in records
    ]
    assert found["data set", "file or folder"] == [
        [
            f"`{r.name}`",
            ("in `/" + file.path[1:] + "`: ") * file.path.startswith("/")
            + ", ".join(f"`{name}`" for name in file.names),
            file.layout,
            counted(file.counts or r.counts),
        ]
        for r in records
        for file in r.files
    ]
    assert found["file", "URL"] == [
        [f"`{file.path}`", f"<{file.url}>", f"{file.size:,}", f"`{file.sha256}`"]
        for r in records
        for file in r.downloads
    ]
    names = {r.name: (f"official {r.title}", True) for r in records}
    names |= {content.name: (content.description, content.official) for r in records for content in r.known.values()}
    names |= {r.stand_in.name: (f"stand-in for {r.title}: {r.stand_in.description}", False) for r in records}
    expected = [[f"`{name}`", what, "yes" if official else "no"] for name, (what, official) in names.items()]
    assert sorted(found["name shown", "what it is"]) == sorted(expected)
    assert {r.title for r in records} <= {row[0] for row in found["data set", "authors and reference"]}


@pytest.mark.parametrize("record", DATASETS.values(), ids=DATASETS)
def test_a_record_agrees_with_the_code_and_with_itself(record):
    assert DATASETS[record.name] is record
    assert {file.layout for file in record.files} <= set(layouts.READERS)
    assert all(len(file.parts) == len(readers.KEYS) for file in record.files if file.layout == "idx")
    read = {layouts.plain(name) for file in record.files for name in file.names}
    assert {layouts.plain(file.path.rpartition("/")[2]) for file in record.downloads} <= read
    for sha256 in (*record.known, record.labels_sha256, *(file.sha256 for file in record.downloads)):
        assert re.fullmatch("[0-9a-f]{64}", sha256)
    assert len(record.label_names) == len(record.stand_in.label_names) == 10
    assert record.stand_in.name in standin.MAKERS and counted(record.stand_in.counts) in record.stand_in.description
    for content in record.known.values():
        assert content.official == (content.name == record.name)
        assert content.description == f"official {record.title}" or not content.official


def test_no_two_data_sets_have_a_content_in_common():
    known = [sha256 for record in DATASETS.values() for sha256 in record.known]
    assert len(set(known)) == len(known) == 4


@pytest.mark.parametrize(
    ("name", "own", "other"),
    [
        (
            "mnist",
            ("mnist", "MNIST/raw", "a/my_mnist"),
            ("fashion-mnist", "FashionMNIST/raw", "KMNIST", "emnist/mnist"),
        ),
        ("fashion_mnist", ("FashionMNIST/raw", "mnist/fashion"), ("MNIST/raw", "a/KMNIST")),
        ("cifar10", ("CIFAR10", "cifar-10-batches-py"), ("cifar-100-python", "CIFAR100")),
    ],
)
def test_a_folder_says_of_which_data_set_it_is(name, own, other):
    record = DATASETS[name]
    for path in own:
        assert re.search(record.own, path.casefold()) and not re.search(record.other, path.casefold())
    for path in other:
        assert re.search(record.other, path.casefold())
    assert not re.search(record.own, ".") and not re.search(record.other, "raw")


def test_a_record_is_all_that_a_new_data_set_needs(tmp_path, monkeypatch):
    record = Record("three_squares", "Three squares", (5, 5, 1), (6, 3), ("a", "b", "c"), (File("squares.npz"),))
    monkeypatch.setitem(DATASETS, "three_squares", record)
    missing = r"Three squares is not in .*, and \$BNN_OFFLINE is set. Put there, .* one of: squares.npz."
    with pytest.raises(data.DataError, match=missing):
        data.load("three-squares", tmp_path)
    monkeypatch.delenv("BNN_OFFLINE")
    with pytest.raises(data.DataError, match=r"and no download is possible \(no URL is known\). Put .* squares.npz"):
        data.load("three-squares", tmp_path)
    x, y = np.arange(6 * 25, dtype=np.uint8).reshape(6, 5, 5), np.arange(6) % 3
    np.savez(tmp_path / "squares.npz", x_train=x, y_train=y, x_test=x[:3], y_test=y[:3])
    loaded = data.load("three-squares", tmp_path)
    assert (loaded.name, loaded.num_classes, loaded.input_shape) == ("three_squares-unverified", 3, (5, 5, 1))
    assert np.array_equal(loaded.x_train[..., 0], x) and np.array_equal(loaded.y_train, y)
    np.savez(tmp_path / "squares.npz", x_train=x, y_train=y + 1, x_test=x[:3], y_test=y[:3])
    with pytest.raises(data.DataError, match="labels 0 to 2, but found y_train with labels from 1 to 3"):
        data.load("three-squares", tmp_path)
