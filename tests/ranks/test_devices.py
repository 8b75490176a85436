"""Which GPU each of two real ranks takes, and training on a device that is not the first.

This machine need not have a GPU: `python -m tests.ranks.test_devices WHAT FOLDER` is what the tests run on real ranks,
with TensorFlow's list of GPUs and Horovod's NCCL replaced, or with the processor split into logical devices.
"""

import json
import sys

from helpers import data
from helpers.distributed import devices

import pytest
import tensorflow as tf

from tests.support.fake_gpus import Configured
from tests.support.ranks import mpiexec


def gpus_of_each(gpus, addresses, nccl):
    """What a rank takes, or why not, if it sees `gpus` GPUs at `addresses`; what Horovod says is real but for NCCL."""
    from helpers import distributed
    from helpers.distributed import horovod_world

    config = Configured(gpus)
    real, devices.tf = devices.tf, type("tf", (), {"config": config})
    devices.pci_address = lambda number: addresses[number]
    horovod_world.hvd.nccl_built = lambda: nccl
    try:
        world = distributed.init()
        return world.local_rank, config.set.get("GPU")
    except ValueError as error:
        return str(error)
    finally:
        devices.tf = real


def cases(rank):
    """name: (GPUs that the rank sees, their addresses, NCCL)."""
    return {
        "a node's own": (2, ["07", "0b"], 1),
        "one each, hidden by the launcher": (1, [["07"], ["0b"]][rank], 1),
        "two ranks, one GPU": (1, ["07"], 1),
        "two ranks, one GPU, MPI": (1, ["07"], 0),
        "one rank without": (1 - rank, ["07"], 1),
    }


def on_second_device():
    """Train on the logical device of this rank's number, and on the first one: the largest difference of any weight."""
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 3)
    from helpers import distributed

    world = distributed.init()
    from helpers import fit, models
    from helpers.runs import Run

    x, y = (part[:200] for part in (DIGITS.x_train, DIGITS.y_train))

    def train(number):
        with tf.device(f"CPU:{number}"):
            model = models.build("BNN_conv_flip", seed=world.rank)
            fit.fit(model, x, y, epochs=1, batch_size=16, seed=3, run=Run(world=world))
        return [v.numpy() for v in model.trainable_variables], {v.device[-5:] for v in model.variables}

    (first, _), (other, places) = train(0), train(1 + world.local_rank)
    return max(float(abs(a - b).max()) for a, b in zip(first, other, strict=True)), sorted(places)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the two ranks found: found[what] is a list, in the order of ranks."""
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    folder = tmp_path_factory.mktemp("found")
    done = mpiexec(2, sys.executable, "-m", "tests.ranks.test_devices", "all", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    return {what: [rank[what] for rank in ranks] for what in ranks[0]}


def test_two_ranks_take_a_gpu_each_or_say_why_not(found):
    both = found["gpus"]
    taken = {name: [rank[name] for rank in both] for name in cases(0)}
    assert taken["a node's own"] == [[0, "GPU:0"], [1, "GPU:1"]]
    assert taken["one each, hidden by the launcher"] == taken["two ranks, one GPU, MPI"] == [[0, "GPU:0"], [1, "GPU:0"]]
    for name, words in (("two ranks, one GPU", "both compute on GPU 07"), ("one rank without", "rank 1 on .* sees no")):
        first, second = taken[name]
        assert first == second
        with pytest.raises(ValueError, match=words):
            raise ValueError(first)


def test_nothing_is_bound_to_the_first_device(found):
    """Each of two ranks trains on a logical device of its own; its parameters lie there, and end as on the first."""
    for rank, (apart, places) in enumerate(found["second"]):
        assert apart < 1e-6 and places == [f"CPU:{rank + 1}"]


def test_the_command_says_it_once(tmp_path):
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    done = mpiexec(2, sys.executable, "-m", "tests.ranks.test_devices", "command", str(tmp_path))
    told = [line for line in done.stderr.splitlines() if line.startswith("helpers.train:")]
    assert done.returncode == 1 and len(told) == 1 and "NCCL refuses" in told[0]


if __name__ == "__main__":
    what, folder = sys.argv[1:]
    from helpers.progress import launched_rank

    rank = launched_rank()
    if what == "command":
        from helpers.distributed import horovod_world
        from helpers.train import command as train

        horovod_world.hvd.nccl_built = lambda: 1
        devices.prepare = lambda *_, **__: "07"
        sys.exit(train.main([f"--output={folder}"]))
    DIGITS = data.load("mnist", quiet=True)
    result = {"second": on_second_device()}  # first, as TensorFlow's devices are divided before their first use
    result["gpus"] = {name: gpus_of_each(*case) for name, case in cases(rank).items()}
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(result, file)
