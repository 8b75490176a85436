"""Three members of an ensemble on two ranks are those that one rank trains, and a failure reaches both ranks.

`mpiexec -n 2 python -m tests.ranks.test_ensemble FOLDER` is what the test runs.
"""

import json
import sys

import numpy as np
import pytest

from tests.support.ranks import mpiexec


def on_rank(folder):
    """What each of two ranks does: it leaves the ensemble's predictions, and its failure, in files."""
    from helpers import distributed

    world = distributed.init()

    from helpers import data, models
    from helpers.fit import fit
    from helpers.inference import predict
    from helpers.methods.ensemble import Ensemble, train_members
    from helpers.runs import Run

    digits, mine = data.load("mnist", quiet=True), []

    def train(member):
        mine.append(member)
        model = models.build("CNN_FC", seed=member)
        fit(model, digits.x_train[:128], digits.y_train[:128], seed=member, run=Run(max_steps=2, progress=False))
        return model.get_weights()

    def with_weights(weights):
        model = models.build("CNN_FC")
        model.set_weights(weights)
        return model

    ensemble = Ensemble([with_weights(weights) for weights in train_members(train, 3, world)])
    trained = list(mine)
    np.save(f"{folder}/ensemble-{world.rank}", predict(ensemble, digits.x_train[:3], world=world))
    if world.rank == 0:  # which has not trained this member
        np.save(f"{folder}/alone", predict(with_weights(train(1)), digits.x_train[:3]))

    def fail(member):
        if member == 1:
            raise ValueError("member 1 has no data")

    try:
        train_members(fail, 4, world)
    except Exception as error:
        failure = [type(error).__name__, str(error)]
    with open(f"{folder}/{world.rank}.json", "w") as file:
        json.dump({"trained": trained, "failure": failure}, file)


def test_two_ranks_train_what_one_trains(tmp_path):
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    done = mpiexec(2, sys.executable, "-m", "tests.ranks.test_ensemble", str(tmp_path))
    assert done.returncode == 0, done.stderr[-4000:]
    arrays = {path.stem: np.load(path) for path in tmp_path.glob("*.npy")}
    np.testing.assert_array_equal(arrays["ensemble-0"], arrays["ensemble-1"])
    np.testing.assert_allclose(arrays["ensemble-0"][1], arrays["alone"][0], rtol=1e-4, atol=1e-6)
    assert len({network.tobytes() for network in arrays["ensemble-0"]}) == 3
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [each["trained"] for each in found] == [[0, 2], [1]]
    assert found[0]["failure"] == ["RankFailure", "rank 1: member 1 has no data"]
    assert found[1]["failure"] == ["ValueError", "member 1 has no data"]


if __name__ == "__main__":
    on_rank(sys.argv[1])
