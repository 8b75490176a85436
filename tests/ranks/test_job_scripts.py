"""Run the job scripts that are submitted by hand, with programs that imitate the sites' schedulers and launchers."""

import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from cluster import engines, launcher
from helpers import ROOT

import pytest

from tests.support import fake_launchers
from tests.support.job_scripts import NAMED, RANK, STOPPED, shortened
from tests.support.notebooks import notebook, text_of

# The scheduler and launcher with which each script runs here. Sophia's launcher is the course's own mpiexec.
MACHINES = {
    "theta": ("cobalt", "aprun"),
    "polaris": ("pbs", "mpiexec"),
    "crux": ("pbs", "mpiexec"),
    "aurora": ("pbs", "mpiexec"),
    "sophia": ("pbs", None),
}
MISSING = engines.missing()
needs_ranks = pytest.mark.skipif(bool(MISSING), reason="; ".join(MISSING))


@pytest.fixture
def site(tmp_path):
    """Set up the course as a user of MPI=site has it. Return a function: (scheduler, launcher) -> (folder, variables).

    Its .venv has this Python's packages and no mpiexec.
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

    def set_up(scheduler, program):
        own = fake_launchers.put(tmp_path / "bin", scheduler, program, launcher.program())
        if not program:
            # With MPI=wheel the course has an mpiexec of its own.
            (course / ".venv" / "bin" / "mpiexec").write_text(f'#!/bin/sh\nexec {launcher.program()} "$@"\n')
            (course / ".venv" / "bin" / "mpiexec").chmod(0o755)
        own |= {"BNN_OFFLINE": "1", "BNN_RUNS_DIR": str(tmp_path / "runs")}
        own |= {"LOADEDMODULES": "PrgEnv-gnu:cray-mpich"}
        own |= {"BASH_FUNC_module%%": "() { :; }", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        return course, {**inherited, **allowed_for_root(), **own}

    return set_up


def allowed_for_root():
    """Return the variables with which Open MPI runs as root."""
    return {key: value for key, value in launcher.environment().items() if key.startswith("OMPI_ALLOW")}


def run(course, environment, path):
    """Submit a script and wait for its end. Return the job's number, exit status and output."""
    done = subprocess.run(
        ["qsub", path], cwd=course, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    number, folder = done.stdout.strip(), Path(environment[fake_launchers.FOLDER])
    until = time.monotonic() + 120
    while not (folder / f"{number}.status").exists():
        assert time.monotonic() < until, (folder / f"{number}.output").read_text()
        time.sleep(0.2)
    return number, int((folder / f"{number}.status").read_text()), (folder / f"{number}.output").read_text()


@needs_ranks
@pytest.mark.timeout(150)
def test_theta_s_script_trains(site):
    course, environment = site(*MACHINES["theta"])
    small = "--model=CNN_FC --dataset=mnist --iterations=20 --num_monte_carlo=1"
    edits = [NAMED, ("-n 8", "-n 2"), (r"PPN=\d+", "PPN=1"), (r"THREADS=\d+", "THREADS=1")]
    edits += [(r"--flagfile=\S+", small)]
    number, status, said = run(course, environment, shortened(course, "theta", "train.sh", *edits))
    assert status == 0, said
    assert json.loads((Path(environment["BNN_RUNS_DIR"]) / "CNN_FC" / "summary.json").read_text())["world_size"] == 2


@needs_ranks
@pytest.mark.timeout(60)
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ["train.sh", "notebooks.sh"])
def test_a_script_whose_project_was_not_replaced_stops_at_once(site, machine, name):
    course, environment = site(*MACHINES[machine])
    number, status, said = run(course, environment, shortened(course, machine, name))
    assert status == 2
    assert re.fullmatch(r"No project: replace PROJECT in the line #\w+ -A\n", said)


def with_rank(course, machine, program, *edits):
    """Write the training script with `program` in place of the training command and 2 ranks on each node."""
    (course / "rank.py").write_text(program)
    edits = [NAMED, (r"PPN=\d+", "PPN=2"), (r"THREADS=\d+", "THREADS=3"), ("-m helpers.train", "rank.py"), *edits]
    return shortened(course, machine, "train.sh", *edits, *([("-n 8", "-n 2")] if machine == "theta" else []))


@needs_ranks
@pytest.mark.timeout(60)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_training_script_starts_the_ranks_it_asks_for(site, machine):
    scheduler, program = MACHINES[machine]
    course, environment = site(scheduler, program)
    number, status, said = run(course, environment, with_rank(course, machine, RANK))
    assert status == 0, said
    ranks = 2 if machine == "sophia" else 4
    first, launch, *lines = said.splitlines()
    assert first == f"Job {number} on {socket.gethostname()}, modules: PrgEnv-gnu:cray-mpich"
    assert launch.startswith("+ timeout --preserve-status --signal=USR1 3480 ") and "python rank.py" in launch
    assert len(lines) == ranks
    for line in lines:
        assert line.startswith(f"{ranks} 3 ['--flagfile=cluster/flags/")
        assert line.endswith("'--num_intra=3', '--resume']")
        assert "'--scale_learning_rate=sqrt'" in line
    if program:
        words = " ".join(fake_launchers.calls(Path(environment[fake_launchers.FOLDER]), program)[-1])
        expected = {
            "theta": "-n 4 -N 2 -cc depth -d 3 -j 2 -b -e OMP_NUM_THREADS=3 -e KMP_BLOCKTIME=0 python rank.py",
            "crux": "-n 4 -ppn 2 --depth 3 --cpu-bind depth --env OMP_NUM_THREADS=3 python rank.py",
            "polaris": "-n 4 -ppn 2 --cpu-bind list:24-31:16-23:8-15:0-7 --env OMP_NUM_THREADS=3 python rank.py",
            "aurora": "-n 4 -ppn 2 --cpu-bind list:1-8:9-16:17-24:25-32:33-40:41-48:53-60:61-68:69-76:77-84:85-92:93",
        }
        assert words.startswith(expected[machine])


@needs_ranks
@pytest.mark.timeout(90)
@pytest.mark.parametrize("machine", MACHINES)
def test_before_the_limit_every_rank_gets_the_signal_and_the_job_ends_with_their_status(site, machine):
    """Open MPI's mpiexec takes the place of aprun and PALS, so this tests only what the script itself does."""
    course, environment = site(*MACHINES[machine])
    path = with_rank(course, machine, STOPPED, ("USR1 3480", "USR1 5"))
    number, status, said = run(course, environment, path)
    received = re.findall(r"rank (\d) received True", said)
    assert sorted(received) == [str(rank) for rank in range(2 if machine == "sophia" else 4)], said
    assert status == os.EX_TEMPFAIL


@needs_ranks
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
        NAMED,
        (r"RANKS_PER_NODE=\d+ OMP_NUM_THREADS=\d+", "RANKS_PER_NODE=1 OMP_NUM_THREADS=2"),
        ("--only 06", str(path)),
    ]
    edits += [(r"-n 8\b", "-n 2")] if machine == "theta" else []
    number, status, said = run(course, environment, shortened(course, machine, "notebooks.sh", *edits))
    assert status == 0, said
    places_of = text_of(course / "build" / number / "notebooks" / path.name, "places")
    assert places_of == "[stdout:0] \n0 2 2\n[stdout:1] \n1 2 2\n"
    words = fake_launchers.calls(Path(environment[fake_launchers.FOLDER]), program)[-1]
    expected = {
        "theta": "-n 2 -b -cc depth -N 1 -d 2 -j 2 ",
        "polaris": "-n 2 --ppn 1 --cpu-bind list:24-31:16-23:8-15:0-7 ",
    }
    assert " ".join(words).startswith(expected[machine])


@needs_ranks
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("machine", "threads", "expected"),
    [
        ("slurm", 3, "--ntasks=2 --cpus-per-task=3 --cpu-bind=cores --kill-on-bad-exit=1 python"),
        ("perlmutter", 16, "--cpus-per-task=32 --cpu-bind=map_ldom:3,2,1,0 --gpu-bind=none --kill-on-bad-exit=1"),
    ],
)
def test_a_slurm_script_starts_a_site_s_own_mpi_with_srun(site, machine, threads, expected):
    course, environment = site(None, "srun")
    environment |= {"SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "3"}
    environment |= {"SLURM_JOB_ID": "7", "SLURM_JOB_ACCOUNT": "course"}
    (course / "rank.py").write_text(RANK)
    path = shortened(course, machine, "train.sh", NAMED, ("-m helpers.train", "rank.py"))

    def start():
        words = ["bash", path, "--seed=3"]
        return subprocess.run(words, cwd=course, env=environment, capture_output=True, text=True, timeout=50)

    done = start()
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == f"Job 7 on {socket.gethostname()}, modules: PrgEnv-gnu:cray-mpich"
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"2 {threads} ['--flagfile=cluster/flags/")
        assert line.endswith(f"'--scale_learning_rate=sqrt', '--num_intra={threads}', '--resume', '--seed=3']")
    assert " ".join(fake_launchers.calls(Path(environment[fake_launchers.FOLDER]), "srun")[-1]).startswith(expected)
    environment["SLURM_JOB_ACCOUNT"] = "PROJECT"
    done = start()
    assert done.returncode == 2 and done.stderr == "No project: replace course in the line #SBATCH --account\n"
