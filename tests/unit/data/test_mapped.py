"""A data set in files that are mapped into memory: the same bits, and nothing left behind."""

import os

from helpers import data
from helpers.data import mapped
from helpers.data.readers import KEYS
from helpers.distributed import RankFailure, World

import numpy as np
import pytest


def test_a_mapped_data_set_has_the_bits_and_batches_of_a_loaded_one(tmp_path):
    loaded, shared = data.load("mnist", quiet=True), data.load_mapped("mnist", tmp_path, quiet=True)
    assert shared.provenance == loaded.provenance and not list(tmp_path.iterdir())
    for key in KEYS:
        array = getattr(shared, key)
        assert isinstance(array, np.memmap) and not array.flags.writeable
        assert np.array_equal(array, getattr(loaded, key)) and array.dtype == getattr(loaded, key).dtype
    how = {"batch_size": 32, "seed": 3, "epoch": 1, "rank": 1, "size": 2, "augment": data.shift}
    pairs = zip(*(data.batches(s.x_train[:300], s.y_train[:300], **how) for s in (loaded, shared)), strict=True)
    count = 0
    for (x, y), (mapped_x, mapped_y) in pairs:
        count += 1
        assert np.array_equal(x, mapped_x) and np.array_equal(y, mapped_y) and x.dtype == mapped_x.dtype
    assert count == 4


def test_batches_leave_a_mapped_array_where_it_is(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(4000, dtype=np.int64).reshape(1000, 4))
    x, read = np.load(tmp_path / "x.npy", mmap_mode="r"), []

    class Watched(np.memmap):
        def __getitem__(self, rows):
            read.append(np.size(rows))
            return super().__getitem__(rows)

    first = next(iter(data.batches(x.view(Watched), np.arange(1000), batch_size=10, seed=0, epoch=0)))[0]
    assert np.array_equal(first[:, 0] // 4, data.epoch_order(1000, 0, 0)[:10])
    assert set(read) == {10} and len(read) < 20  # of the batches ahead, each by itself


@pytest.mark.parametrize("place", ["none", "file"])
def test_a_folder_that_cannot_be_used_is_named(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(data.DataError, match=rf"cannot write the \d+ MB of .*{place}.*another folder on a disk"):
        data.load_mapped("mnist", tmp_path / place, quiet=True)


def test_a_full_disk_leaves_no_half_written_files(tmp_path, monkeypatch):
    def full(path, array):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped.np, "save", full)
    with pytest.raises(data.DataError, match="No space left on device"):
        data.load_mapped("mnist", tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


def test_a_rank_that_does_not_read_takes_what_the_reader_of_its_own_host_wrote(tmp_path, monkeypatch):
    class Second(World):
        rank, size, local_rank = 1, 3, 1
        wrote = None

        def gather_objects(self, value):
            if value is None or isinstance(value, str):
                return [self.wrote, value, None]
            return [("elsewhere", ("/no/such", {})), value, (value[0], self.files)]

    dataset = data.load("mnist", quiet=True)
    for key in KEYS:
        np.save(tmp_path / f"{key}.npy", getattr(dataset, key))
    facts = {key: getattr(dataset, key) for key in mapped._FACTS}
    Second.files = (str(tmp_path), facts)
    monkeypatch.setattr(mapped, "load", None)  # this rank reads no data set
    found = data.load_mapped("mnist", tmp_path, Second())
    assert found.sha256 == dataset.sha256 and np.array_equal(found.x_test, dataset.x_test)
    Second.wrote = "cannot write"
    with pytest.raises(RankFailure, match="rank 0: cannot write"):
        data.load_mapped("mnist", tmp_path, Second())


@pytest.mark.parametrize("kind", [">i2", "<i2", ">f4"])
def test_mapped_numbers_of_any_byte_order_are_those_of_an_array(tmp_path, kind):
    np.save(tmp_path / "x.npy", np.arange(40).reshape(20, 2).astype(kind))
    np.save(tmp_path / "y.npy", np.arange(20).astype(">i4"))
    arrays = [[np.load(tmp_path / f"{name}.npy", mmap_mode=mode) for name in "xy"] for mode in (None, "r")]
    (x, y), (mapped_x, mapped_y) = (next(iter(data.batches(*pair, batch_size=8, seed=0, epoch=0))) for pair in arrays)
    assert np.array_equal(x, mapped_x) and np.array_equal(y, mapped_y) and x.dtype == mapped_x.dtype
    assert mapped_y.numpy().tolist() == data.epoch_order(20, 0, 0)[:8].tolist()


def test_an_empty_name_of_a_folder_is_refused():
    with pytest.raises(data.DataError, match="empty name"):
        data.load_mapped("mnist", "", quiet=True)


def test_a_file_that_is_shorter_than_its_header_says_is_refused(tmp_path, monkeypatch):
    save = np.save

    def short(path, array):
        save(path, array)
        os.truncate(path, path.stat().st_size - 100)

    monkeypatch.setattr(mapped.np, "save", short)
    with pytest.raises(data.DataError, match="cannot map what local rank 0"):
        data.load_mapped("mnist", tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())
