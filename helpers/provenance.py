"""What a result was computed with: versions, devices, job, commit, world size and data.

Each notebook ends with `report`, and each training run saves what `collect` returns.
"""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

from helpers import ROOT

_PACKAGES = ("tensorflow", "tf-keras", "tensorflow-probability", "horovod", "numpy", "ipyparallel", "papermill")


class Described(Protocol):
    """Anything with a provenance in one line, such as a `helpers.data.Dataset`."""

    @property
    def provenance(self) -> str: ...


def processor() -> str:
    """Return the name of the processor."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", path.read_text() if path.exists() else "", re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def device_lines() -> list[str]:
    """Return a line for the processor and one for each GPU that TensorFlow sees in this process, with its driver."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    tf: Any = sys.modules.get("tensorflow")  # If it has not been imported, it has not computed anything.
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


def collect(*datasets: Described, world_size: int = 1) -> dict[str, Any]:
    """Return the facts that `report` prints, as a dictionary that JSON can hold."""
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "horovod": _horovod(),
        "devices": device_lines(),
        **_site(),
        "commit": _commit(),
        "world_size": world_size,
        "data": [dataset.provenance for dataset in datasets],
    }


def report(*datasets: Described, world_size: int = 1) -> None:
    """Print versions, devices, commit, world size and the provenance of each data set, one line each.

    In a scheduler's job, also print the job's number. If environment modules are loaded, also print their names.

    Args:
      *datasets: The data sets that the result depends on.
      world_size: The number of ranks that computed it.
    """
    for name, value in collect(*datasets, world_size=world_size).items():
        for line in value if isinstance(value, list) else [value]:
            print(f"{name:24}{line}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _horovod() -> str:
    """Return Horovod's version and, if this process uses Horovod, the libraries that it was built with."""
    version, hvd = _version("horovod"), sys.modules.get("horovod.tensorflow")
    if hvd is None:
        return version
    nccl = hvd.nccl_built()
    built = {f"NCCL {_nccl_version(nccl)}": nccl, "MPI": hvd.mpi_built(), "Gloo": hvd.gloo_built()}
    return f"{version}, built with {', '.join(name for name, there in built.items() if there)}"


def _nccl_version(code: int) -> str:
    """Return the version that NCCL_VERSION_CODE stands for: 10000 x + 100 y + z from 2.9 on (nccl.h), before 1000 x."""
    major, rest = divmod(code, 10000 if code >= 10000 else 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def _site() -> dict[str, str]:
    """Return the scheduler's job and the loaded environment modules, each only if there are any."""
    modules = ", ".join(filter(None, os.environ.get("LOADEDMODULES", "").split(":")))
    return {name: value for name, value in (("job", _job()), ("modules", modules)) if value}


def _job() -> str:
    """Return the scheduler and the number of the job that this process runs in, with its nodes under Slurm, or ""."""
    for scheduler, variable in {"slurm": "SLURM_JOB_ID", "pbs": "PBS_JOBID", "cobalt": "COBALT_JOBID"}.items():
        if number := os.environ.get(variable):
            nodes = os.environ.get("SLURM_JOB_NODELIST") if scheduler == "slurm" else None
            return f"{scheduler} {number}" + (f" on {nodes}" if nodes else "")
    return ""


def _commit() -> str:
    """Return the short hash of the commit, with "+" if tracked files differ from it, or "unknown" outside git."""
    try:
        # git refuses a folder of another owner, as the course's is on a hub, unless it is told that the folder is safe.
        git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
        git += ["describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
