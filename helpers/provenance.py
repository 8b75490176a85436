"""What made a result: versions, commit, world size, data. Notebooks close with it, runs save it."""

import importlib.metadata
import platform
import subprocess

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


def collect(*datasets, world_size=1):
    """The same facts as `report`, as a dict that JSON can hold."""
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "commit": _commit(),
        "world_size": world_size,
        "data": [dataset.provenance for dataset in datasets],
    }


def report(*datasets, world_size=1):
    """Print versions, commit, world size and the provenance of each of `datasets`, a line each."""
    for name, value in collect(*datasets, world_size=world_size).items():
        for line in value if isinstance(value, list) else [value]:
            print(f"{name:24}{line}")
