"""Which GPU a rank takes, with lists that stand in for GPUs."""

import shutil
import subprocess
import sys

from helpers import ROOT, provenance
from helpers.distributed import devices

import pytest
import tensorflow as tf

from tests.support.fake_gpus import Configured

CUDA = """
#include <stdio.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int* device, int number) { *device = 40 + number; return number > 3; }
int cuDeviceGetPCIBusId(char* text, int length, int device) {
    return snprintf(text, length, "0000:%02d:00.0", device) < 0;
}
"""


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


def test_the_provenance_names_the_job(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "PBS_JOBID", "COBALT_JOBID"):
        monkeypatch.delenv(name, raising=False)
    assert "job" not in provenance.collect()
    monkeypatch.setenv("PBS_JOBID", "1234.polaris")
    assert provenance.collect()["job"] == "pbs 1234.polaris"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert provenance.collect()["job"] == "slurm 7"
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[0-3]")
    assert provenance.collect()["job"] == "slurm 7 on node[0-3]"
