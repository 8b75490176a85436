"""environment.yml gives an environment that runs notebooks: its pip section is installed as conda would install it."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from tests.unit.test_conda import CONDA, FROM_PIP, PYTHON, ROOT


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A clone whose environment has only what the pip section installs: (clone, its variables)."""
    if os.environ.get("BNN_TEST_CONDA") != "1":
        pytest.skip("it installs all packages once more, which takes five minutes: set BNN_TEST_CONDA=1 to run it")
    if not PYTHON.contains(".".join(map(str, sys.version_info[:3]))):
        pytest.skip("environment.yml does not offer this Python")
    clone = tmp_path_factory.mktemp("conda") / "clone"
    for part in ("cluster", "helpers"):
        shutil.copytree(ROOT / part, clone / part, ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "notebooks").mkdir()
    for file in ("requirements.lock", "notebooks/00_start_here.ipynb"):
        shutil.copy(ROOT / file, clone / file)
    prefix = clone.parent / "environment"
    python = prefix / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", prefix], check=True, timeout=180)
    dropped = ("PYTHONPATH", "BNN_RUNS_DIR", "JUPYTER_CONFIG_DIR")
    variables = {key: value for key, value in os.environ.items() if key not in dropped}
    variables |= CONDA["variables"] | {"PATH": f"{prefix / 'bin'}:{os.environ['PATH']}", "PIP_NO_COMPILE": "1"}
    options = {"cwd": clone, "env": variables, "capture_output": True, "text": True}
    # conda-forge gives the newest pip. The one in Python's own venv may be too old for hashes of extras.
    if subprocess.run([python, "-m", "pip", "install", "-qU", "pip"], timeout=120, **options).returncode:
        pytest.skip("pip reaches no package index")
    # This is what conda does: a file beside environment.yml, and pip with that folder as the current one.
    (clone / "condaenv.requirements.txt").write_text("\n".join(FROM_PIP))
    command = [python, "-m", "pip", "install", "-U", "-r", "condaenv.requirements.txt", "--exists-action=b"]
    done = subprocess.run(command, timeout=900, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    yield clone, variables
    shutil.rmtree(prefix)


@pytest.mark.timeout(1200)
def test_a_notebook_runs_before_make_setup(environment):
    clone, variables = environment
    command = ["jupyter", "execute", "notebooks/00_start_here.ipynb", "--inplace"]
    done = subprocess.run(command, cwd=clone, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = nbformat.read(clone / "notebooks" / "00_start_here.ipynb", 4).cells
    printed = "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))
    assert re.search(r"^horovod +not installed$", printed, flags=re.M), "the pip section leaves Horovod to make setup"
