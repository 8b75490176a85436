"""Monte Carlo inference on two ranks gives what one rank gives.

`mpiexec -n 2 python -m tests.ranks.test_inference FOLDER` is what the test runs.
"""

import sys

from helpers import models
from helpers.inference import sample_outputs

import numpy as np
import pytest

from tests.support.networks import model_of
from tests.support.ranks import mpiexec
from tests.unit.inference.test_protocol import Shifted


def on_rank(folder):
    """What each of two ranks does: it leaves what it got, and what one rank gets alone, in files."""
    from helpers import distributed

    world = distributed.init()
    for kind in ("dense flipout", "mixed"):
        model, x = model_of(kind, seed=3)
        for draws in (7, 1):
            name = f"{folder}/{kind}-{draws}"
            np.save(f"{name}-{world.rank}", sample_outputs(model, x, draws, seed=6, world=world))
            np.save(f"{name}-alone-{world.rank}", sample_outputs(model, x, draws, seed=6))
    model = models.build("CNN_FC")
    np.save(f"{folder}/twin-{world.rank}", sample_outputs(model, np.zeros((2, 28, 28, 1)), world=world))
    # Two draws of which rank 0 gets one, and a single member, which rank 1 gets.
    for members in (None, 1):
        name, posterior = f"{folder}/posterior-{members}", Shifted(model_of("conv 1")[0], members)
        np.save(f"{name}-{world.rank}", sample_outputs(posterior, model_of("conv 1")[1], 2, seed=6, world=world))
        np.save(f"{name}-alone-{world.rank}", sample_outputs(posterior, model_of("conv 1")[1], 2, seed=6))
    try:
        sample_outputs(model, np.zeros((2 * world.rank, 28, 28, 1)), world=world)
    except Exception as error:
        np.save(f"{folder}/failure-{world.rank}", [type(error).__name__, str(error)])


def test_two_ranks_give_what_one_gives(tmp_path):
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    done = mpiexec(2, sys.executable, "-m", "tests.ranks.test_inference", str(tmp_path))
    assert done.returncode == 0, done.stderr[-4000:]
    found = {path.stem: np.load(path) for path in tmp_path.iterdir()}
    for kind in ("dense flipout", "mixed"):
        for draws in (7, 1):
            name = f"{kind}-{draws}"
            assert len(found[f"{name}-0"]) == draws
            np.testing.assert_array_equal(found[f"{name}-0"], found[f"{name}-1"])
            np.testing.assert_allclose(found[f"{name}-0"], found[f"{name}-alone-0"], atol=1e-5)
    for members, count in ((None, 2), (1, 1)):
        name = f"posterior-{members}"
        assert len(found[f"{name}-0"]) == count
        np.testing.assert_array_equal(found[f"{name}-0"], found[f"{name}-1"])
        np.testing.assert_allclose(found[f"{name}-0"], found[f"{name}-alone-0"], atol=1e-5)
    assert found["twin-0"].shape == found["twin-1"].shape == (1, 2, 10)
    assert found["failure-0"][0] == "ValueError" and "at least one example" in found["failure-0"][1]
    assert found["failure-1"][0] == "RankFailure" and "rank 0" in found["failure-1"][1]


if __name__ == "__main__":
    on_rank(sys.argv[1])
