"""What made a result: versions, devices, commit, world size, data. Notebooks close with it, runs save it."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from helpers import ROOT

_PACKAGES = ("tensorflow", "tf-keras", "tensorflow-probability", "horovod", "numpy", "ipyparallel", "papermill")


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit():
    """The commit's short hash, '+' behind it if tracked files differ from it; 'unknown' outside git."""
    try:
        # git refuses a course folder that is somebody else's, as on a hub, unless it is told that this one is safe.
        git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
        git += ["describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def processor():
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", path.read_text() if path.exists() else "", re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def device_lines():
    """A line for the processor and for each GPU that this process sees: devices, and what drives them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    tf = sys.modules.get("tensorflow")  # what has not been imported has not computed
    threads = (tf and tf.config.threading.get_intra_op_parallelism_threads()) or cores
    lines = [f"{processor()}, {threads} of {cores} threads"]
    for gpu in tf.config.get_visible_devices("GPU") if tf else ():
        details, build = tf.config.experimental.get_device_details(gpu), tf.sysconfig.get_build_info()
        line = f"{details.get('device_name', 'GPU')}, compute capability "
        line += ".".join(map(str, details.get("compute_capability", ["unknown"])))
        line += f", TensorFlow built for CUDA {build.get('cuda_version')} and cuDNN {build.get('cudnn_version')}"
        path = Path("/proc/driver/nvidia/version")
        driver = re.search(r"Module.*?\s(\d+\.[\d.]+)", path.read_text() if path.exists() else "")
        lines.append(line + (f", driver {driver[1]}" if driver else ""))
    return lines


def _horovod():
    """Horovod's version and, where this process uses it, the libraries that it was built with."""
    version, hvd = _version("horovod"), sys.modules.get("horovod.tensorflow")
    if hvd is None:
        return version
    built = {"NCCL": hvd.nccl_built(), "MPI": hvd.mpi_built(), "Gloo": hvd.gloo_built()}
    return f"{version}, built with {', '.join(name for name, there in built.items() if there)}"


def collect(*datasets, world_size=1):
    """The same facts as `report`, as a dict that JSON can hold."""
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "horovod": _horovod(),
        "devices": device_lines(),
        "commit": _commit(),
        "world_size": world_size,
        "data": [dataset.provenance for dataset in datasets],
    }


def report(*datasets, world_size=1):
    """Print versions, commit, world size and the provenance of each of `datasets`, a line each."""
    for name, value in collect(*datasets, world_size=world_size).items():
        for line in value if isinstance(value, list) else [value]:
            print(f"{name:24}{line}")
