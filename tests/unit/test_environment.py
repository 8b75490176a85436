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
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(line) for group in (PROJECT["dependencies"], *EXTRAS.values()) for line in group]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
SETUP = [f"cluster/setup/{name}" for name in ("setup.sh", "system.sh", "horovod.sh", "horovod.patch")]
FILES = ("Makefile", "pyproject.toml", "requirements.lock", *SETUP)  # all that set-up reads


def lock_entries():
    """The lock's entries: (requirement with its marker, its hashes)."""
    text = (ROOT / "requirements.lock").read_text()
    for entry in re.split(r"\n(?=[a-z0-9])", text):
        first = entry.partition("\\\n")[0]
        yield Requirement(first.strip()), re.findall(r"--hash=(sha256:[0-9a-f]{64})\b", entry)


def locked(python, *extras, machine="x86_64"):
    """name -> version in the lock for this release of Python, as in 3.11.7 or 3.11, on Linux, with these extras."""
    full = python if python.count(".") == 2 else f"{python}.0"
    where = {"python_version": full.rpartition(".")[0], "python_full_version": full, "sys_platform": "linux"}
    where |= {"platform_machine": machine, "implementation_name": "cpython"}
    versions = {}
    for requirement, _ in lock_entries():
        if any(requirement.marker.evaluate(where | {"extra": extra}) for extra in ("", *extras)):
            assert requirement.name not in versions, f"the lock has two versions of {requirement.name}"
            versions[requirement.name] = next(iter(requirement.specifier)).version
    return versions


# ---- pyproject.toml, requirements.lock


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_lock_satisfies_every_direct_dependency(python, machine):
    versions = locked(python, "horovod", "gpu", "book", machine=machine)
    here = {"python_version": python, "sys_platform": "linux", "platform_machine": machine}
    for requirement in DIRECT:
        if requirement.marker and not requirement.marker.evaluate(here):
            continue
        assert requirement.name in versions, f"{requirement.name} is not in requirements.lock: run make lock"
        assert requirement.specifier.contains(versions[requirement.name], prereleases=True), f"{requirement}: make lock"


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
    address = re.compile(r"https?://(?!127\.0\.0\.1)\S+|--(?:extra-)?index-url \S+|--find-links \S+")
    for name in (*FILES, "environment.yml", ".ci/run"):
        found = address.findall((ROOT / name).read_text())
        assert not found, f"{name} names {found}"


def test_set_up_and_project_take_the_same_pythons():
    takes = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(8, 18) if takes.contains(f"3.{minor}.1")] == list(PYTHONS)
    system = (ROOT / "cluster" / "setup" / "system.sh").read_text()
    assert "(3, 10) <= sys.version_info[:2] <= (3, 14)" in system
    candidates = re.search(r"candidates=\((.*)\)", system)[1]
    assert sorted(re.findall(r"python(3\.\d+)", candidates)) == sorted(PYTHONS)


def test_pip_passes_over_what_only_horovod_and_cuda_need():
    """So that a plain `pip install -r requirements.lock` works without a compiler, and brings no CUDA."""
    every = set().union(*(locked(python, "horovod", "gpu") for python in PYTHONS))
    plain = set().union(*map(locked, PYTHONS))
    horovod = {Requirement(line).name for line in EXTRAS["horovod"]}
    assert horovod <= every and "nvidia-nccl-cu12" in every
    assert every - plain == horovod | {name for name in every if name.startswith("nvidia-")}


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="not running in .venv")
def test_what_is_installed_is_what_is_locked():
    left_out = {Requirement(line).name for line in EXTRAS["horovod"]}
    for name, version in locked(platform.python_version(), "horovod").items():
        try:
            assert importlib.metadata.version(name) == version, name
        except importlib.metadata.PackageNotFoundError:
            assert name in left_out, f"{name} is locked but not installed"


# ---- The commands


def targets():
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))


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
    assert set(re.findall(r"^  make ([a-z-]+)", shown, flags=re.M)) == targets()
    assert {"HOROVOD=0", "MPI=site"} <= set(re.findall(r"^  ([A-Z]+=\S+)", shown, flags=re.M))


def test_readme_gives_two_commands_and_ci_runs_them():
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```\w*\n(.*?)```", readme, flags=re.S)
    commands = [{line.partition("#")[0].strip() for line in block.splitlines()} for block in blocks]
    assert any({"make run", "make test"} <= block for block in commands)
    # CI runs `make test`, which runs pytest, where a test starts the driver that `make run` is.
    assert re.search(r"^(time )?make test$", (ROOT / ".ci" / "run").read_text(), flags=re.M)
    (words,) = re.findall(r"-m pytest (.*)", make("--dry-run", "test"))
    assert "--junit-xml=build/tests.xml" in words and not re.search(r"-m |-k |--ignore|--deselect|tests/", words)
    assert make("--dry-run", "run").endswith(
        "setup.sh python -m cluster.run_notebooks --profile quick --ranks 2 --output build\n"
    )
    others = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__).resolve()]
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

TOOLS = "awk bash cat cksum cut df dirname find flock getconf grep head id ls make mkdir mktemp patch readlink sed sh"
TOOLS += " sort tail tr uname"

# What /etc/os-release says, and what set-up advises for a machine that has neither Python nor compiler.
SYSTEMS = {
    "Debian 12": ("ID=debian\nVERSION_ID='12'", "apt-get install -y python3 python3-venv python3-dev g++"),
    "Debian testing": ("ID=debian", "apt-get install -y python3 python3-venv python3-dev g++"),
    "Debian 11": ('ID=debian\nVERSION_ID="11"', "conda env create -f environment.yml"),
    "Ubuntu 20.04": ('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="20.04"', "conda env create -f environment.yml"),
    "Ubuntu 26.04": ('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="26.04"', "apt-get install -y python3 python3-venv"),
    "Mint 20.3": ('ID=linuxmint\nID_LIKE=ubuntu\nVERSION_ID="20.3"', "conda env create -f environment.yml"),
    "CentOS 7": ('ID="centos"\nID_LIKE="rhel fedora"\nVERSION_ID="7"', "conda env create -f environment.yml"),
    "Fedora": ("ID=fedora\nVERSION_ID=43", "dnf install -y python3.13 python3.13-devel gcc-c++"),
    "Rocky": ('ID="rocky"\nID_LIKE="rhel fedora"\nVERSION_ID="9.4"', "dnf install -y python3.12 python3.12-devel"),
    "Amazon": ('ID="amzn"\nID_LIKE="fedora"\nVERSION_ID="2023"', "dnf install -y python3.11 python3.11-devel gcc-c++"),
    "Leap": (
        'ID="opensuse-leap"\nID_LIKE="suse opensuse"\nVERSION_ID="15.6"',
        "zypper install -y python311 python311-devel gcc-c++",
    ),
    "Arch": ("ID=arch", "pacman -S --needed python gcc"),
    "unknown": ("ID=void", "Install them with your system's package manager"),
}


@pytest.fixture
def machine(tmp_path):
    """A clone on a Debian 13 without Python, compiler and MPI: (clone, folder on PATH, a failing set-up)."""
    tools, clone = tmp_path / "bin", tmp_path / "clone"
    tools.mkdir()
    for tool in TOOLS.split():
        if where := shutil.which(tool):
            (tools / tool).symlink_to(where)
    for name in FILES:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    release = tmp_path / "os-release"
    release.write_text('PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\n')

    def set_up(*command, **variables):
        environment = {"PATH": str(tools), "HOME": str(tmp_path / "home"), "OS_RELEASE": str(release), **variables}
        before = sorted(tmp_path.rglob("*"))
        command = command or ("make", "run")
        done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, timeout=20)
        assert done.returncode != 0
        assert sorted(tmp_path.rglob("*")) == before, "a set-up that failed left something behind"
        return done.stderr

    return clone, tools, set_up


def write_python(path, prelude):
    """An interpreter that pretends: `prelude` runs before the code it is given with -c."""
    prelude = f'import sys, sysconfig; sys._base_executable = "{path}"; {prelude}'
    path.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{prelude}\nexec(sys.argv[1])' \"$2\"\n")
    path.chmod(0o755)


@pytest.mark.parametrize("system", SYSTEMS)
def test_nothing_is_there(machine, tmp_path, system):
    _, _, set_up = machine
    release, advice = SYSTEMS[system]
    (tmp_path / "os-release").write_text(f'PRETTY_NAME="{system}"\n{release}\n')
    message = set_up()
    assert message.count("cannot be set up here") == 1
    assert "Python 3.10 to 3.14 (CPython): python3 is not there" in message
    assert "C++17 compiler" in message
    assert advice in message
    assert "Nothing was created" in message and "make run HOROVOD=0" in message


def test_on_a_cluster_modules_are_named_and_not_the_package_manager(machine):
    _, _, set_up = machine
    message = set_up(LMOD_CMD="/opt/lmod")
    assert "module avail" in message and "apt-get" not in message


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 15, 0)])
def test_python_of_another_version(machine, version):
    _, tools, set_up = machine
    said = ".".join(map(str, version))
    pretend = f'import platform; sys.version_info = {version}; platform.python_version = lambda: "{said}"'
    write_python(tools / "python3", pretend)
    assert f"python3 is CPython {said}" in set_up()


def test_python_without_the_lock_of_the_interpreter_is_refused(machine):
    """There are no wheels for free-threaded builds."""
    _, tools, set_up = machine
    write_python(tools / "python3", "sysconfig.get_config_var = lambda name: 1")
    assert "Python 3.10 to 3.14 (CPython)" in set_up()


def test_python_without_headers(machine):
    _, tools, set_up = machine
    write_python(tools / "python3", 'sysconfig.get_path = lambda name: "nowhere"')
    message = set_up()
    assert "Python.h" in message
    assert f"apt-get install -y python{sys.version_info[0]}.{sys.version_info[1]}-dev g++\n" in message


def test_python_without_venv(machine):
    _, tools, set_up = machine
    write_python(tools / "python3", 'sys.modules["ensurepip"] = None')
    message = set_up(HOROVOD="0")
    assert f"apt-get install -y python{sys.version_info[0]}.{sys.version_info[1]}-venv\n" in message
    assert "compiler" not in message and "Python.h" not in message


def test_no_compiler(machine):
    _, _, set_up = machine
    message = set_up(PYTHON=sys.executable)
    assert "C++17 compiler" in message and "apt-get install -y g++\n" in message
    assert "make run HOROVOD=0" in message
    assert "CPython" not in message, "the Python was fine"


@pytest.mark.parametrize("tool", ["make", "patch"])
def test_no_make_or_patch(machine, tool):
    _, tools, set_up = machine
    (tools / tool).unlink()
    message = set_up("bash", "cluster/setup/setup.sh", PYTHON=sys.executable)
    assert f"- {tool}, which" in message and f"apt-get install -y g++ {tool}\n" in message


def test_no_cuda_compiler(machine):
    _, tools, set_up = machine
    message = set_up(PYTHON=sys.executable, GPU="1", CUDA_HOME="/nowhere")
    assert "no bin/nvcc and include/cuda_runtime.h in /nowhere" in message and "module load cudatoolkit" in message
    assert "GPU is '2'; it can be 0 (the default) or 1" in set_up(GPU="2")


def test_a_python_that_is_named_and_does_not_fit(machine):
    _, tools, set_up = machine
    folder = tools.parent / "my python"
    folder.mkdir()
    write_python(folder / "python3", "sys.version_info = (3, 9, 1)")
    message = set_up(PYTHON=str(folder / "python3"))
    assert f"PYTHON={folder}/python3 is CPython" in message and "leave PYTHON out" in message
    assert "install -y python3" not in message, "another Python would not be taken"


@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_numbers_of_compilers_that_make_refuses(machine, value):
    assert f"JOBS is '{value}'; it can be 1 or more" in machine[2](JOBS=value, PYTHON=sys.executable)


def test_the_choice_of_the_last_set_up_is_kept(machine):
    """After `make run HOROVOD=0`, `make lab` must not ask for a compiler."""
    clone, _, set_up = machine
    (clone / ".venv").mkdir()
    (clone / ".venv" / "bnn-course").write_text(f"{clone}: HOROVOD=0 MPI=wheel GPU=0   12345")
    assert "compiler" not in set_up(PYTHON="/nowhere") and "compiler" in set_up(PYTHON="/nowhere", HOROVOD="1")


def test_a_file_in_the_place_of_the_environment(machine):
    clone, _, set_up = machine
    (clone / ".venv").write_text("")
    assert "a file of this name is here" in set_up(PYTHON=sys.executable, HOROVOD="0")


def test_no_room(machine):
    _, tools, set_up = machine
    (tools / "df").unlink()
    (tools / "df").write_text("#!/bin/sh\necho head; echo none 1 2 120 4\n")
    (tools / "df").chmod(0o755)
    assert "120 MB are free in this folder, and set-up needs 3500 MB" in set_up(PYTHON=sys.executable, HOROVOD="0")


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
    assert "a folder of this name is here that this set-up did not make" in set_up(PYTHON=sys.executable, HOROVOD="0")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to tell Open MPI that it is meant")
def test_open_mpi_is_allowed_for_root():
    makefile = "include Makefile\nshow:\n\t@echo $$OMPI_ALLOW_RUN_AS_ROOT $$OMPI_ALLOW_RUN_AS_ROOT_CONFIRM\n"
    assert make("--file=-", "show", input=makefile) == "1 1\n"


@pytest.mark.slow
def test_an_unfinished_set_up_is_taken_up_again_whatever_the_folder_is_called(machine):
    """No name is a pattern: in a folder with brackets, the mark that the .venv is ours was once removed."""
    clone, tools, _ = machine
    odd = clone.rename(clone.with_name("Ünï [old] (1) *"))
    # No package index answers, so that set-up stops once it has made .venv.
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(odd), **nowhere}
    for _ in range(2):
        done = subprocess.run(
            ["bash", "cluster/setup/setup.sh"],
            cwd=odd,
            env=environment | {"HOROVOD": "0", "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1 and "pip could not get uv from the package index" in done.stderr
        assert "that this set-up did not make" not in done.stderr
    assert (odd / ".venv" / "bnn-course").exists()
