"""Horovod's rules on 2 and 4 real MPI ranks; rank_checks.py has what each rank does."""

import json
import sys

import pytest

from tests.support.ranks import mpiexec


@pytest.fixture(scope="module", params=[2, 4])
def found(request, tmp_path_factory):
    """found[check] is the list of the ranks' findings, in the order of ranks."""
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    folder = tmp_path_factory.mktemp(f"ranks-{request.param}")
    done = mpiexec(request.param, sys.executable, "-m", "tests.support.rank_checks", str(folder), timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(request.param)]
    return {check: [rank[check] for rank in ranks] for check in ranks[0]}


def test_broadcast_makes_ranks_equal(found):
    assert all(before > 0.1 and after == 0 for before, after, _ in found["broadcast"])
    assert len({total for *_, total in found["broadcast"]}) == 1


def test_shards_are_disjoint_and_complete_and_steps_are_equal(found):
    size = len(found["shards"])
    for case in zip(*found["shards"], strict=True):
        n = case[0][0]
        assert sorted(index for _, shard, _ in case for index in shard) == list(range(n))
        assert {steps for *_, steps in case} == {n // size // 16}


def test_the_averaged_gradient_is_that_of_one_rank_on_the_whole_batch_its_kl_counted_once(found):
    """The noise is held fixed: shared-weight layers with one seed draw the same weights on every rank."""
    assert max(found["averaged_gradient"]) < 1e-5


def test_n_ranks_train_like_one_rank_with_the_whole_batch(found):
    """A deterministic model: it has no noise to hold fixed, so whole runs can be compared."""
    assert all(apart < 1e-4 and moved > 1e-2 for moved, apart in found["like_one_rank"])


def test_noise_differs_by_rank_and_weights_do_not_and_a_seed_repeats_it_all(found):
    for differing, distinct, again, changed, _ in found["noise"]:
        assert differing == 0 and distinct == len(found["noise"]) and again == 0 and changed > 0
    assert len({loss for *_, loss in found["noise"]}) == 1


def test_a_resumed_run_ends_like_an_uninterrupted_one(found):
    assert found["resumed"] == [0] * len(found["resumed"])


def test_one_rank_s_failure_is_every_rank_s(found):
    told = ["RankFailure", "rank 1: no such file"]
    expected = [told] * len(found["failure"])
    expected[1] = ["ValueError", "no such file"]
    assert found["failure"] == expected
