"""What holds for every test: data that is the same everywhere, and a mark with the name of its room."""

import os
from pathlib import Path

import pytest

os.environ["BNN_OFFLINE"] = "1"  # tests see the same stand-ins whether or not there is a network
os.environ.pop("BNN_DATA_DIR", None)


def pytest_collection_modifyitems(items):
    """The folder of a test is its room, so `pytest -m ranks` and `pytest tests/ranks` run the same tests.

    Slow unit tests come first. Where tests run in parallel, none of them is then left alone at the end.
    """
    for item in items:
        item.add_marker(item.path.relative_to(Path(__file__).parent).parts[0])
        if "CIFAR10_BNN" in item.name:  # the largest model
            item.add_marker("slow")
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def fresh_flags():
    """The training command's flags are global: back to their defaults after the test."""
    from helpers.train import flags

    yield
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    flags.FLAGS.unparse_flags()
    os.environ.pop("KMP_AFFINITY", None)
    os.environ.pop("KMP_BLOCKTIME", None)
