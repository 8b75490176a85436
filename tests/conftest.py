"""What holds for every test: data that is the same everywhere, and a mark with the name of its room."""

import os
from pathlib import Path

import pytest

os.environ["BNN_OFFLINE"] = "1"  # tests see the same stand-ins whether or not there is a network
os.environ.pop("BNN_DATA_DIR", None)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items):
    """Mark each test with its folder, and put the tests into the order in which two workers of `make test` take them.

    `pytest -m ranks` and `pytest tests/ranks` run the same tests. The group "ranks" has all tests that start MPI ranks,
    also those of other folders. It comes first, and one worker runs it from start to end, because two sets of ranks on
    the same cores would wait for each other. Meanwhile the other worker runs what takes long: tests of services, which
    keep one worker for each module, and notebooks. The many short unit tests at the end keep both workers busy.
    """
    for item in items:
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        item.add_marker(room)
        if "CIFAR10_BNN" in item.name:  # the largest model
            item.add_marker("slow")
        if room in ("ranks", "services") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("ranks" if room == "ranks" else item.path.stem))
    items.sort(key=_turn)


def _turn(item):
    """The place of a test in that order; tests of one place keep their own."""
    group = item.get_closest_marker("xdist_group")
    first = [group is not None and group.args == ("ranks",)]
    first += [item.get_closest_marker(name) is not None for name in ("services", "notebooks", "bench", "slow")]
    return [not each for each in first]


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
