"""What holds for every test: data that is the same everywhere, and a mark with the name of its room."""

import os
import re
from pathlib import Path

import pytest

os.environ["BNN_OFFLINE"] = "1"  # tests see the same stand-ins whether or not there is a network
os.environ.pop("BNN_DATA_DIR", None)
# Ranks that wait leave their core to what another worker runs. Otherwise both take much longer.
os.environ["OMPI_MCA_mpi_yield_when_idle"] = "1"
# The workers of `make test` keep all cores busy, so a second thread of an operation would only wait for a core.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")


def pytest_collection_modifyitems(items):
    """Mark each test with its folder, and put the tests into the order in which the workers of `make test` take them.

    `pytest -m ranks` and `pytest tests/ranks` run the same tests. What takes longest comes first: the group of all
    tests with MPI ranks. Meanwhile the other worker runs tests of services, the notebooks and the benchmark. The many
    short unit tests at the end keep both workers busy until all is done.
    """
    for item in items:
        item.add_marker(item.path.relative_to(Path(__file__).parent).parts[0])
        if "CIFAR10_BNN" in item.name:  # the largest model
            item.add_marker("slow")
    items.sort(key=_turn)


def _turn(item):
    """The place of a test in that order. Tests of the same place keep their own."""
    marks = {mark.name for mark in item.iter_markers()}
    return group(item.nodeid) != "ranks", *(mark not in marks for mark in ("services", "notebooks", "bench", "slow"))


def group(nodeid):
    """Return the name of a test's group. One worker runs the tests of a group, one after the other.

    Tests that start MPI ranks are one group, because two sets of ranks on the same cores wait for each other. Tests of
    one kind of service share what they start, and those of the exercises one process. A notebook and its solutions
    share the models that they train. Any other test is a group of its own.
    """
    path, _, name = nodeid.partition("::")
    if re.match(r"tests/(ranks/|services/test_(slurm|balsam|hub))", path) or "on_ranks" in name:
        return "ranks"
    if path.startswith(("tests/services/", "tests/notebooks/test_exercises")):
        return path
    notebook = re.match(r"test_it_runs_in_its_quick_profile\[(\d\d)", name)
    return f"notebook {notebook[1]}" if notebook else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Let `--dist loadgroup` ask `group`, because the marks of pytest-xdist 3.8 have no effect with pytest 9.2."""
    if config.option.dist != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        _split_scope = staticmethod(group)

    return Groups(config, log)


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
