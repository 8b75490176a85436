"""Each module of `cluster` can be imported by itself, and the commands start quickly because they import little."""

import subprocess
import sys

from helpers import ROOT

import pytest

FOLDERS = ("profile_mpi", "setup")  # configuration files of IPython and Jupyter
ELSEWHERE = {"cluster.balsam.apps"}  # runs in Balsam's environment
HEAVY = {"tensorflow", "tf_keras", "keras", "tensorflow_probability", "horovod", "mpi4py", "matplotlib", "ipyparallel"}
NEED_IPYPARALLEL = {"cluster.engines.launchers", "cluster.engines.view"}

PATHS = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "cluster").rglob("*.py"))]
MODULES = {".".join(path.parts).removesuffix(".__init__") for path in PATHS if path.parts[1] not in FOLDERS}


@pytest.mark.parametrize("module", sorted(MODULES - ELSEWHERE))
def test_a_module_is_imported_by_itself_without_tensorflow(module):
    say = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", say], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    heavy = HEAVY & set(done.stdout.split())
    assert heavy == ({"ipyparallel"} if module in NEED_IPYPARALLEL else set())
