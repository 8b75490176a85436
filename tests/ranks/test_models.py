"""Models that readers bring, on two real MPI ranks; model_checks.py has what each rank does."""

import json
import sys

import pytest

from tests.support.ranks import mpiexec


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """found[check] is the list of the two ranks' findings."""
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    folder = tmp_path_factory.mktemp("models")
    done = mpiexec(2, sys.executable, "-m", "tests.support.model_checks", str(folder), timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(2)]
    return {check: [rank[check] for rank in ranks] for check in ranks[0]}


def test_every_kind_of_noise_differs_between_ranks_and_steps_although_one_seed_is_set(found):
    first, second = found["noise"]
    same = [name for name in first if first[name][0] == second[name][0] or first[name][0] == first[name][1]]
    assert len(first) == 14 and same == []


def test_a_run_resumed_twice_draws_the_same_numbers(found):
    for rank in found["resumed"]:
        for name, (uninterrupted, once, again) in rank.items():
            assert once == again and len(once) == 2
            # The state of Keras' dropout is in no checkpoint.
            assert (once == uninterrupted) == (name != "dropout")


def test_a_run_leaves_tensorflow_s_seed_as_random_as_it_was(found):
    for first, second in found["seed_after"]:
        assert first != second
    assert found["seed_after"][0] == found["seed_after"][1]


def test_ranks_average_the_moving_averages_and_save_them(found):
    for seen, moved, expected, apart, frozen in found["moving_averages"]:
        assert seen == [0.0] * len(seen) and len(seen) == 3
        assert moved > 1e-3 > 1e-6 > expected
        assert apart == 0 and frozen


def test_sparse_gradients_of_two_ranks_are_those_of_one(found):
    for half, full in found["embedding"]:
        assert half < 1e-3 and full < 1e-5


def test_a_variable_that_the_loss_does_not_reach_stays_and_one_rank_names_it(found):
    for apart, moved, other_moved, _ in found["unused_variable"]:
        assert apart == 0 and moved > 1e-4 and other_moved == 0
    first, second = (named for *_, named in found["unused_variable"])
    assert first > 0 and second == 0
