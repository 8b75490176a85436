"""Make small data sets, and damage files at random.

`BNN_EXAMPLES=10 python -m pytest tests/unit/data/test_damaged.py tests/unit/test_runs.py tests/unit/train` tries ten
times as many examples, and other ones each time.
"""

import hashlib
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from helpers.data.catalogue import DATASETS

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

MORE = int(os.environ.get("BNN_EXAMPLES", 1))
TRAIN, TEST = 60, 20  # images in each of the small data sets

Change = Callable[[bytes], bytes | str | None]


def examples(count: int) -> settings:
    """Return settings under which a test tries `count` examples, the same ones unless BNN_EXAMPLES is set."""
    return settings(
        max_examples=count * MORE,
        derandomize=MORE == 1,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def small_data_sets() -> pytest.MonkeyPatch:
    """Make files of a few images whole data sets, and hide the files of this machine, until the caller undoes it."""
    patch = pytest.MonkeyPatch()
    for name, record in DATASETS.items():
        files = tuple(file for file in record.files if not Path(file.path).is_absolute())
        patch.setitem(DATASETS, name, replace(record, counts=(TRAIN, TEST), files=files))
    patch.setenv("BNN_OFFLINE", "1")
    return patch


def images(name: str) -> tuple[np.ndarray, ...]:
    """Make a small data set with classes that can be learned, in the form in which `data.load` gives it."""
    random = np.random.RandomState(0)
    arrays = []
    for count in (TRAIN, TEST):
        labels = np.arange(count) % 10
        pixels = random.randint(0, 128, (count, *DATASETS[name].shape))
        arrays += [(pixels + 12 * labels[:, None, None, None]).astype(np.uint8), labels.astype(np.int32)]
    return tuple(arrays)


def python2_batch(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    """Write a batch of CIFAR-10 as it is published: protocol 2, from Python 2 and NumPy 1, with byte strings."""
    rows = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(pixels), 3072)
    return (
        b"\x80\x02}(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K" + bytes([len(rows)]) + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", rows.nbytes)
        + rows.tobytes() + b"tbU\x06labels](" + b"".join(b"K" + bytes([label]) for label in labels) + b"eu."
    )  # fmt: skip


WEB_PAGE = b"<html><title>Sign in</title></html>"
KINDS = ("cut", "flip", "flip", "flip", "zeros", "insert", "swap", "empty", "page", "none", "folder")


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Draw how a file is damaged: a function from its bytes to others, to None (no file) or to "folder" (a folder)."""
    kind = draw(st.sampled_from(KINDS))
    places = draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4))
    bit = draw(st.integers(0, 7))

    def change(content: bytes) -> bytes | str | None:
        if kind in ("none", "folder"):
            return None if kind == "none" else "folder"
        if kind in ("empty", "page") or not content:
            return WEB_PAGE if kind == "page" else b""
        raw, at = bytearray(content), int(places[0] * len(content))
        if kind == "cut":
            return bytes(raw[:at])
        if kind == "insert":
            return bytes(raw[:at] + bytes([bit]) + raw[at:])
        if kind == "zeros":
            raw[at : at + 64] = bytes(len(raw[at : at + 64]))
        elif kind == "swap":
            half = len(raw) // 2
            raw = raw[half:] + raw[:half]
        else:
            for place in places:
                raw[int(place * len(raw))] ^= 1 << bit
        return bytes(raw)

    change.__name__ = f"{kind}_at_{'_'.join(f'{place:.3f}' for place in places)}_bit_{bit}"
    return change


def damage(path: Path, change: Change) -> bool:
    """Damage the file, and return whether it has changed."""
    before = path.read_bytes()
    after = change(before)
    if after is None or after == "folder":
        path.unlink()
        if after:
            path.mkdir()
    else:
        path.write_bytes(after)
    return after != before


def digest(folder: Path) -> dict[str, str]:
    """Return {path: hash of the content} of all files in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha1(path.read_bytes()).hexdigest() for path in files}
