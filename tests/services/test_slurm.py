"""Jobs on a real Slurm, made of this machine alone: two nodes, MPI ranks over both, and every way a job can end."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from cluster import engines
from helpers import ROOT

import pytest

from tests.support import slurm_machine
from tests.support.job_scripts import NAMED, RANK, STOPPED, shortened
from tests.support.notebooks import notebook, text_of

LACKING = slurm_machine.missing() or " ".join(engines.missing())
pytestmark = [
    pytest.mark.timeout(170),
    pytest.mark.skipif(bool(LACKING), reason=LACKING),
]
IN_VENV = os.path.exists(f"{sys.prefix}/bin/activate")
needs_venv = pytest.mark.skipif(not IN_VENV, reason="this Python is in no virtual environment")
LAYOUT = ["--partition=debug", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"]  # for scripts of sites
SLEEP = "import time\nprint('asleep', flush=True)\ntime.sleep(300)"
PLACES = (
    "%%px\nimport os\nfrom mpi4py import MPI\n"
    "print(MPI.COMM_WORLD.rank, os.environ['SLURMD_NODENAME'], MPI.COMM_WORLD.allreduce(1))"
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """The environment of a running Slurm with two nodes; nothing of it is left afterwards."""
    with slurm_machine.slurm(nodes=2, processors=4) as environment:
        yield {
            **environment,
            "PYTHONPATH": str(ROOT),
            "BNN_JOBS_DIR": str(tmp_path_factory.mktemp("jobs")),
            "BNN_RUNS_DIR": str(tmp_path_factory.mktemp("runs")),
            # Both nodes are this host: Open MPI's shared memory would take ranks of one for those of the other.
            "OMPI_MCA_btl": "self,tcp",
        }


@pytest.fixture(scope="module", autouse=True)
def waiting(machine, tmp_path_factory):
    """Jobs that wait for a time limit, as their processes by name; all begin before the first test.

    Slurm allows no limit under a minute, and looks for jobs near their limits every 30 seconds. So the other tests run
    while these jobs wait. They take two of each node's processors, and the other tests the third.
    """
    folders = {name: tmp_path_factory.mktemp(name) for name in ("too_long", "told", "saved")}
    path = notebook(folders["too_long"], "01_long.ipynb", wait=SLEEP)
    request = ["--ranks-per-node", 1, "--time", 1, "--", path, "--output", folders["too_long"]]
    jobs = {"too_long": start(machine, "notebooks", *request)}
    if IN_VENV:
        # 40 to 70 seconds after its start, and 90 to 120: even on a slow machine the ranks are there by then.
        told = by_hand(machine, folders["told"], STOPPED, "--time=2", "--signal=B:USR1@80")
        flags = ["--model=CNN_FC", "--epochs=1000000", "--checkpoint_every=1000000", f"--output={folders['saved']}/out"]
        offline = {**machine, "BNN_OFFLINE": "1"}
        saved = by_hand(offline, folders["saved"], None, "--time=3", "--signal=B:USR1@90", flags=flags)
        jobs |= {"told": told, "saved": saved}
    yield {name: (job, folders[name]) for name, job in jobs.items()}
    for job in jobs.values():
        job.kill()
        job.communicate()


def start(machine, *arguments):
    """Start `cluster.submit`; returns its process."""
    words = [sys.executable, "-m", "cluster.submit", *map(str, arguments)]
    return subprocess.Popen(words, cwd=ROOT, env=machine, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    """The completed process, once it has ended."""
    out, errors = process.communicate(timeout=150)
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def submit(machine, *arguments):
    return ended(start(machine, *arguments))


def number(done):
    return re.search(r"slurm job (\d+)", done.stdout)[1]


def output(machine, done):
    return (ROOT / re.search(r"its output: (.*)", done.stdout)[1]).read_text()


def shown(machine, done):
    """What Slurm itself says of the job."""
    words = ["scontrol", "show", "job", number(done)]
    return subprocess.run(words, env=machine, capture_output=True, text=True, timeout=30).stdout


def test_a_notebook_goes_to_both_nodes_and_comes_back_executed(machine, tmp_path):
    path = notebook(
        tmp_path,
        "01_ranks.ipynb",
        start="from cluster import engines\nranks = engines.start()",
        places=PLACES,
        results="from cluster.batch import sweep\nsweep.record(ranks=len(ranks))",
    )
    out = tmp_path / "out"
    request = ["--scheduler", "slurm", "--nodes", 2, "--ranks-per-node", 1, "--time", "0:05:00", "--wait", 140]
    done = submit(machine, "notebooks", *request, "--", path, "--output", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"slurm job \d+: done \(after \d+ seconds\)", done.stdout)
    assert "1 of 1 notebooks done" in output(machine, done)
    assert text_of(out / "notebooks" / path.name, "places") == "[stdout:0] \n0 node0 2\n[stdout:1] \n1 node1 2\n"
    assert "ranks 2" in (out / "index.html").read_text()
    assert "JobState=COMPLETED" in shown(machine, done) and "ExitCode=0:0" in shown(machine, done)


def test_the_training_command_trains_on_both_nodes(machine, tmp_path):
    flags = ["--dataset=mnist", "--model=CNN_FC", "--iterations=20", "--num_monte_carlo=1", f"--output={tmp_path}"]
    environment = {**machine, "BNN_OFFLINE": "1"}
    request = ["--nodes", 2, "--ranks-per-node", 1, "--time", 5, "--wait", 140]
    done = submit(environment, "train", *request, "--", *flags)
    said = output(machine, done)
    assert done.returncode == 0, done.stdout + said
    assert "+ mpiexec -n 2 -map-by ppr:1:node" in said and "2 ranks" in said
    assert json.loads((tmp_path / "CNN_FC" / "summary.json").read_text())["world_size"] == 2


def by_hand(machine, folder, program, *options, flags=("--seed=3",), edits=()):
    """Submit the training script, with `program` in the command's place unless it is None; returns sbatch's process."""
    for name, place in {".venv": sys.prefix, "cluster": ROOT / "cluster", "helpers": ROOT / "helpers"}.items():
        (folder / name).symlink_to(place)
    # The jobs that wait are on these nodes too.
    edits = [NAMED, ("#SBATCH --exclusive\n", ""), *edits]
    if program:
        (folder / "rank.py").write_text(program)
        edits.append(("-m helpers.train", "rank.py"))
    path = shortened(folder, "slurm", "train.sh", *edits)
    words = ["sbatch", "--wait", "--parsable", *LAYOUT, "--output=said.txt", *options, path, *flags]
    return subprocess.Popen(words, cwd=folder, env=machine, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@needs_venv
def test_the_script_for_submission_by_hand_starts_its_ranks_on_both_nodes(machine, tmp_path):
    done = ended(by_hand(machine, tmp_path, RANK, "--time=5"))
    said = (tmp_path / "said.txt").read_text()
    assert done.returncode == 0, done.stderr + said
    flags = ["--flagfile=cluster/flags/mnist_bnn.cfg", "--scale_learning_rate=sqrt", "--num_intra=1", "--resume"]
    assert said.count(f"2 1 {[*flags, '--seed=3']}\n") == 2


@needs_venv
def test_an_array_of_that_script_gives_each_job_its_seed_and_folder(machine, tmp_path):
    """With the change that cluster/README.md shows."""
    change = re.search(r"`(--seed=\S+ --output=\S+)`", (ROOT / "cluster" / "README.md").read_text())[1]
    edits = [(r'--resume "\$@"', f"--resume {change}")]
    done = ended(by_hand(machine, tmp_path, RANK, "--time=5", "--array=0-1", "--output=said-%a.txt", edits=edits))
    for number in (0, 1):
        said = (tmp_path / f"said-{number}.txt").read_text()
        assert done.returncode == 0, done.stderr + said
        assert said.count(f"'--seed={number}', '--output=build/runs/seed-{number}']\n") == 2


@needs_venv
def test_before_the_limit_slurm_tells_every_rank_of_that_script(waiting):
    job, folder = waiting["told"]
    done, said = ended(job), (folder / "said.txt").read_text()
    assert said.count("received True") == 2, said
    assert done.returncode == os.EX_TEMPFAIL


@needs_venv
def test_slurm_s_signal_ahead_of_the_limit_saves_a_checkpoint(machine, waiting):
    job, folder = waiting["saved"]
    done, said = ended(job), (folder / "said.txt").read_text()
    assert done.returncode == os.EX_TEMPFAIL, done.stderr + said
    words = ["scontrol", "show", "job", done.stdout.strip()]
    job = subprocess.run(words, env=machine, capture_output=True, text=True, timeout=30).stdout
    assert "JobState=FAILED" in job and "ExitCode=75:0" in job
    (step,) = re.findall(r"helpers.train: told to stop, at step (\d+): its checkpoint is saved", said)
    assert (folder / "out" / "CNN_FC" / "checkpoints" / f"step-{step}.index").exists()


def test_srun_takes_the_launcher_s_options_and_fills_the_allocation(machine, tmp_path):
    say = "import os; os.write(1, f\"{os.environ['SLURM_PROCID']} {os.environ['SLURMD_NODENAME']}\\n\".encode())"
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} -m cluster.launcher {sys.executable} -c {shlex.quote(say)}\n")
    # As many as the job that lasts too long leaves free.
    words = ["sbatch", "--wait", "--nodes=2", "--ntasks=3", "--time=5", f"--output={tmp_path}/said.txt", script]
    # Not MPI, which the srun of a machine with MPI=wheel cannot start.
    environment = {**machine, "BNN_LAUNCHER": "srun"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150)
    said = (tmp_path / "said.txt").read_text()
    assert done.returncode == 0, done.stderr + said
    assert "+ srun -n 3 --cpu-bind=cores --kill-on-bad-exit=1 --nodes=2 --ntasks-per-node=2 --cpus-per-task=1" in said
    ranks = sorted(line.split() for line in said.splitlines()[-3:])
    assert [rank for rank, _ in ranks] == ["0", "1", "2"] and {node for _, node in ranks} == {"node0", "node1"}


def test_a_rank_is_a_task_of_several_that_srun_started(machine, tmp_path):
    say = "from helpers.progress import launched_rank; print('rank', launched_rank(), flush=True)"
    alone, script = shlex.join([sys.executable, "-c", say]), tmp_path / "job.sh"
    script.write_text(f"#!/bin/sh\n{alone}\nsrun -n 1 {alone}\nsrun -n 2 {alone}\n")
    words = ["sbatch", "--wait", "--nodes=1", "--ntasks=2", "--time=5", f"--output={tmp_path}/said.txt", script]
    done = subprocess.run(words, cwd=ROOT, env=machine, capture_output=True, text=True, timeout=150)
    said = (tmp_path / "said.txt").read_text()
    assert done.returncode == 0, done.stderr + said
    ranks = [line.split()[1] for line in said.splitlines() if line.startswith("rank")]
    assert ranks[:2] == ["None", "None"] and sorted(ranks[2:]) == ["0", "1"], said


def test_a_job_that_fails_is_reported_as_failed(machine, tmp_path):
    path = notebook(tmp_path, "01_bad.ipynb", bad="raise ValueError('no such thing')")
    request = ["--ranks-per-node", 1, "--time", 2, "--wait", 100]
    done = submit(machine, "notebooks", *request, "--", path, "--output", tmp_path)
    assert done.returncode == 1
    assert re.search(r": failed \(with status 1, after \d+ seconds\)", done.stdout)
    assert "01_bad.ipynb: cell bad: ValueError: no such thing" in done.stdout
    # Slurm itself knows it too, so that what depends on the job does not start.
    assert "JobState=FAILED" in shown(machine, done) and "ExitCode=1:0" in shown(machine, done)


def test_a_cancelled_job_is_reported_as_cancelled(machine, tmp_path):
    path = notebook(tmp_path, "01_long.ipynb", wait=SLEEP)
    first = submit(
        machine, "notebooks", "--ranks-per-node", 1, "--time", 5, "--wait", 2, "--", path, "--output", tmp_path
    )
    assert first.returncode == 3 and "(--wait)" in first.stdout
    done = submit(machine, "cancel", number(first))
    assert done.returncode == 0 and re.search(r": cancelled \(Slurm says CANCELLED", done.stdout), done.stdout
    again = submit(machine, "status", number(first))
    assert again.returncode == 1 and ": cancelled" in again.stdout
    assert submit(machine, "cancel", number(first)).stdout == again.stdout


def test_what_slurm_refuses_is_told_and_leaves_no_folder(machine, tmp_path):
    before = os.listdir(machine["BNN_JOBS_DIR"])
    done = submit(machine, "notebooks", "--queue", "nowhere", "--", tmp_path / "x.ipynb")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("cluster.submit: sbatch failed with status 1:") and "partition" in done.stderr
    assert os.listdir(machine["BNN_JOBS_DIR"]) == before


def test_a_job_over_its_time_is_reported_as_that(machine, waiting):
    job, _ = waiting["too_long"]
    submitted = ended(job)
    assert submitted.returncode == 0, submitted.stderr
    until = time.monotonic() + 130
    done = submit(machine, "status", number(submitted))
    while done.returncode == 0 and time.monotonic() < until:
        time.sleep(2)
        done = submit(machine, "status", number(submitted))
    assert done.returncode == 1, done.stdout
    assert ": ran out of time (Slurm says TIMEOUT, TimeLimit)" in done.stdout
    assert submit(machine, "status", 999).returncode == 2


def test_a_controller_that_is_down_is_told_within_seconds(machine, tmp_path):
    config = re.sub("SlurmctldPort=.*", "SlurmctldPort=1", Path(machine["SLURM_CONF"]).read_text())
    (tmp_path / "slurm.conf").write_text(config)
    begun = time.monotonic()
    down = {**machine, "SLURM_CONF": str(tmp_path / "slurm.conf")}
    done = submit(down, "notebooks", "--", tmp_path / "x.ipynb")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "Unable to contact slurm controller" in done.stderr or "may be down" in done.stderr
    assert time.monotonic() - begun < 40
