"""What holds for every test: data that is the same everywhere, and a mark with the name of its room."""

import os
from pathlib import Path

import pytest

os.environ["BNN_OFFLINE"] = "1"  # tests see the same stand-ins whether or not there is a network
os.environ.pop("BNN_DATA_DIR", None)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items):
    """Mark each test with its folder, and put the tests into the order in which `make test` starts them.

    `pytest -m ranks` and `pytest tests/ranks` run the same tests. Two workers of pytest-xdist take the tests from the
    front of the list. Tests of services wait most of their time, so they come first and run beside the notebooks.
    The many short unit tests then keep both workers busy until what needs the whole machine is left, which one worker
    runs after all else.
    """
    for item in items:
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        item.add_marker(room)
        if "CIFAR10_BNN" in item.name:  # the largest model
            item.add_marker("slow")
        if room in ("ranks", "bench"):
            item.add_marker("alone")
        if item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.xdist_group("alone"))
        elif room == "services":
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=_turn)


def _turn(item):
    """The place of a test among all others; tests of one place keep their order."""
    marks = {mark.name for mark in item.iter_markers()}
    return "alone" in marks, "services" not in marks, "notebooks" not in marks, "slow" not in marks


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
