"""What several tests on ranks compare theirs with."""

import pytest

from tests.support.training import Run


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The folder of a run on two ranks to which nothing happened."""
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    with Run(tmp_path_factory.mktemp("undisturbed") / "run") as run:
        status, _, text = run.end(280)
        assert status == 0, text[-3000:]
    return run.folder
