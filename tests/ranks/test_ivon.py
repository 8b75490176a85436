"""IVON on two ranks follows one rank with two draws. `mpiexec -n 2 python -m tests.ranks.test_ivon FOLDER` is run."""

import sys

from helpers.fit import fit
from helpers.methods.ivon import IVON
from helpers.runs import Run

import numpy as np
import pytest
import tf_keras as keras

from tests.support.networks import stack
from tests.support.ranks import mpiexec

STEPS = 20


def trained(draws, x, y, batch_size, **run):
    keras.utils.set_random_seed(0)
    model = stack((5,), keras.layers.Dense(6, "tanh"), keras.layers.Dense(3))
    optimizer = IVON(0.3, 50, beta2=0.9, weight_decay=0.01, draws=draws)
    how = {"batch_size": batch_size, "epochs": STEPS, "seed": 4, "optimizer": optimizer}
    fit(model, x, y, run=Run(progress=False, **run), **how)
    return np.concatenate([*(w.ravel() for w in model.get_weights()), optimizer.hessian, optimizer.momentum])


def on_rank(folder):
    """What each of two ranks does. All examples are the same, so that every shard of them is the same as well."""
    from helpers import distributed

    world = distributed.init()
    x, y = np.repeat(np.random.default_rng(0).normal(size=(1, 5)).astype(np.float32), 8, 0), np.full(8, 2)
    np.save(f"{folder}/together-{world.rank}", trained(1, x, y, 4, world=world))
    if world.rank == 0:
        np.save(f"{folder}/two", trained(2, x, y, 8))
        np.save(f"{folder}/one", trained(1, x, y, 8))


def test_two_ranks_follow_one_rank_with_two_draws(tmp_path):
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    done = mpiexec(2, sys.executable, "-m", "tests.ranks.test_ivon", str(tmp_path))
    assert done.returncode == 0, done.stderr[-4000:]
    first, second, two, one = (np.load(tmp_path / f"{name}.npy") for name in ("together-0", "together-1", "two", "one"))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, two, rtol=1e-4, atol=1e-5)
    assert np.abs(two - one).max() > 0.01


if __name__ == "__main__":
    on_rank(sys.argv[1])
