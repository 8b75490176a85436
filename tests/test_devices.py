"""Which GPU a rank takes, with lists that stand in for GPUs, and training on a device that is not the first.

This machine need not have a GPU: `python -m tests.test_devices WHAT FOLDER` is what the tests run on real ranks, with
TensorFlow's list of GPUs and Horovod's NCCL replaced, or with the processor split into logical devices.
"""

import json
import shutil
import subprocess
import sys

from helpers import ROOT, data, devices, provenance

import pytest
import tensorflow as tf

from tests.conftest import mpiexec

CUDA = """
#include <stdio.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int* device, int number) { *device = 40 + number; return number > 3; }
int cuDeviceGetPCIBusId(char* text, int length, int device) {
    return snprintf(text, length, "0000:%02d:00.0", device) < 0;
}
"""


class Configured:
    """Stands in for `tf.config`, and keeps what was set."""

    def __init__(self, gpus):
        self.gpus, self.set, self.threading = [f"GPU:{number}" for number in range(gpus)], {}, self

    def list_physical_devices(self, kind):
        return self.gpus

    def set_visible_devices(self, device, kind):
        self.set[kind] = device

    def set_intra_op_parallelism_threads(self, number):
        self.set["intra"] = number

    def set_inter_op_parallelism_threads(self, number):
        self.set["inter"] = number


@pytest.mark.parametrize(
    ("gpus", "how", "expected"),
    [
        (0, {"local_rank": 1, "launched": True}, {"intra": 1, "inter": 1}),
        (0, {}, {}),
        (4, {"local_rank": 3, "launched": True}, {"GPU": "GPU:3"}),
        (2, {"local_rank": 3, "launched": True}, {"GPU": "GPU:1"}),
        (1, {"local_rank": 5, "launched": True}, {"GPU": "GPU:0"}),
        (3, {}, {"GPU": "GPU:0"}),
    ],
)
def test_a_rank_takes_the_gpu_of_its_local_rank_and_only_one_on_a_cpu_a_single_thread(gpus, how, expected, monkeypatch):
    config = Configured(gpus)
    monkeypatch.setattr(devices.tf, "config", config)
    taken = devices.prepare(None, None, **how)
    assert config.set == expected and (taken is None) == (gpus == 0)


def test_threads_that_are_asked_for_are_given_on_a_gpu_too(monkeypatch):
    for gpus in (0, 1):
        config = Configured(gpus)
        monkeypatch.setattr(devices.tf, "config", config)
        devices.prepare(3, None, launched=True)
        assert (config.set["intra"], config.set["inter"]) == (3, 1)


def test_the_address_of_a_gpu_is_cudas(tmp_path, monkeypatch):
    """Asked of a library with the signatures of CUDA's driver; where there is none, the number stands in."""
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name, cdll=devices.ctypes.CDLL: cdll(str(tmp_path / name)))
    assert devices.pci_address(2) == "2"
    if not (compiler := shutil.which("cc")):
        pytest.skip("needs a C compiler")
    (tmp_path / "cuda.c").write_text(CUDA)
    command = [compiler, "-shared", "-fPIC", tmp_path / "cuda.c", "-o", tmp_path / "libcuda.so.1"]
    subprocess.run(command, check=True, timeout=60)
    assert devices.pci_address(2) == "0000:42:00.0"
    assert devices.pci_address(4) == "4"  # CUDA knows no such device


def test_ranks_have_a_gpu_each_or_none_has_any():
    devices.check([("a", None), ("a", None), ("b", None)])
    devices.check([("a", "07"), ("a", "0b"), ("b", "07"), ("b", "0b")])  # the same addresses on two hosts
    with pytest.raises(devices.DeviceError, match="ranks 0 and 2 .* GPU 07 of a, where 3 ranks take 2 GPUs"):
        devices.check([("a", "07"), ("a", "0b"), ("a", "07"), ("b", "07")])
    with pytest.raises(devices.DeviceError, match="rank 1 on b sees no GPU"):
        devices.check([("a", "07"), ("b", None), ("b", None)])


def test_memory_grows_unless_the_user_says_otherwise():
    script = "import os, helpers; print(os.environ['TF_FORCE_GPU_ALLOW_GROWTH'])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "true"


def test_the_provenance_names_processor_threads_and_gpus(monkeypatch):
    first, *rest = provenance.device_lines()
    assert "threads" in first and len(first) > 20 and len(rest) == len(tf.config.get_visible_devices("GPU"))
    details = {"device_name": "Some GPU", "compute_capability": (8, 0)}
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["GPU:3"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: {"cuda_version": "12.5.1", "cudnn_version": "9"})
    _, line = provenance.device_lines()
    assert line.startswith("Some GPU, compute capability 8.0, TensorFlow built for CUDA 12.5.1 and cuDNN 9")


# On real ranks


def gpus_of_each(gpus, addresses, nccl):
    """What a rank takes, or why not, if it sees `gpus` GPUs at `addresses`; what Horovod says is real but for NCCL."""
    from helpers import distributed

    config = Configured(gpus)
    real, devices.tf = devices.tf, type("tf", (), {"config": config})
    devices.pci_address = lambda number: addresses[number]
    distributed.hvd.nccl_built = lambda: nccl
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


def on_second_device(folder):
    """Train on the logical device of this rank's number, and on the first one: the largest difference of any weight."""
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 3)
    from helpers import distributed

    world = distributed.init()
    from helpers import fit, models

    x, y = (part[:200] for part in (DIGITS.x_train, DIGITS.y_train))

    def train(number):
        with tf.device(f"CPU:{number}"):
            model = models.build("BNN_conv_flip", seed=world.rank)
            fit.fit(model, x, y, epochs=1, batch_size=16, seed=3, world=world)
        return [v.numpy() for v in model.trainable_variables], {v.device[-5:] for v in model.variables}

    (first, _), (other, places) = train(0), train(1 + world.local_rank)
    return max(float(abs(a - b).max()) for a, b in zip(first, other, strict=True)), sorted(places)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")

    def run(what):
        folder = tmp_path_factory.mktemp(what)
        done = mpiexec(2, sys.executable, "-m", "tests.test_devices", what, str(folder))
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]

    return run


@pytest.mark.mpi
def test_two_ranks_take_a_gpu_each_or_say_why_not(found):
    both = found("gpus")
    taken = {name: [rank[name] for rank in both] for name in cases(0)}
    assert taken["a node's own"] == [[0, "GPU:0"], [1, "GPU:1"]]
    assert taken["one each, hidden by the launcher"] == taken["two ranks, one GPU, MPI"] == [[0, "GPU:0"], [1, "GPU:0"]]
    for name, words in (("two ranks, one GPU", "both compute on GPU 07"), ("one rank without", "rank 1 on .* sees no")):
        first, second = taken[name]
        assert first == second
        with pytest.raises(ValueError, match=words):
            raise ValueError(first)


@pytest.mark.mpi
def test_nothing_is_bound_to_the_first_device(found):
    """Each of two ranks trains on a logical device of its own; its parameters lie there, and end as on the first."""
    for rank, (apart, places) in enumerate(found("second")):
        assert apart < 1e-6 and places == [f"CPU:{rank + 1}"]


@pytest.mark.mpi
def test_the_command_says_it_once(tmp_path):
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    done = mpiexec(2, sys.executable, "-m", "tests.test_devices", "command", str(tmp_path))
    told = [line for line in done.stderr.splitlines() if line.startswith("helpers.train:")]
    assert done.returncode == 1 and len(told) == 1 and "NCCL refuses" in told[0]


if __name__ == "__main__":
    what, folder = sys.argv[1:]
    from helpers.progress import launched_rank

    rank = launched_rank()
    if what == "command":
        from helpers import distributed, train

        distributed.hvd.nccl_built = lambda: 1
        devices.prepare = lambda *_, **__: "07"
        sys.exit(train.main([f"--output={folder}"]))
    if what == "gpus":
        result = {name: gpus_of_each(*case) for name, case in cases(rank).items()}
    else:
        DIGITS = data.load("mnist", quiet=True)
        result = on_second_device(folder)
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(result, file)
