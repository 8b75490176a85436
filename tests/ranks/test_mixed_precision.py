"""Steps that one rank's overflow leaves out, on two ranks.

`mpiexec -n 2 python -m tests.ranks.test_mixed_precision FOLDER` is what the test runs.
"""

import json
import sys

from helpers import data
from helpers.fit import loss_scale

import pytest
import tensorflow as tf
import tf_keras as keras

from tests.support.ranks import mpiexec
from tests.unit.test_mixed_precision import start


def on_rank(folder):
    """One rank's findings: overflow on rank 1 alone, and a run whose first steps overflow."""
    from helpers.distributed import differing, init
    from helpers.distributed.horovod_world import HorovodWorld

    world = init()
    scale, value, optimizer = loss_scale.LossScale(), tf.Variable([1.0]), keras.optimizers.legacy.SGD(0.5)
    gradient = tf.constant([float("inf") if world.rank == 1 else 0.2])
    tf.function(lambda gradient: scale.apply(optimizer, world.average([gradient]), [value]))(gradient)
    alone = float(value[0]), float(scale.scale) / loss_scale.INITIAL

    loss_scale.INITIAL = 2.0**30
    digits = data.load("mnist", quiet=True)
    results = []
    for number, ranks in enumerate((world, HorovodWorld(half_precision=True))):
        model, _ = start(digits, 1, world=ranks, folder=f"{folder}/{number}", max_steps=8)
        model, history = start(digits, world=ranks, folder=f"{folder}/{number}", resume=True)
        first, last = history.epochs
        results.append((differing(model.variables, world), last["nll"] < first["nll"], last["step"]))
    with open(f"{folder}/{world.rank}.json", "w") as file:
        json.dump([alone, *results], file)


def test_ranks_leave_out_the_same_steps(tmp_path):
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    done = mpiexec(2, sys.executable, "-m", "tests.ranks.test_mixed_precision", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        alone, *runs = json.loads((tmp_path / f"{rank}.json").read_text())
        assert alone == [1, 0.5]
        assert runs == [[0, True, 20]] * 2


if __name__ == "__main__":
    on_rank(sys.argv[1])
