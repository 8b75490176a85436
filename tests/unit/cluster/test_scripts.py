"""cluster.submit: the scripts that it writes and submits, and what it refuses."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from cluster import submit
from cluster.jobs import states
from helpers import ROOT

import psutil
import pytest

from tests.support import fake_launchers

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A jobs folder of the test's own, here and in what it starts; no scheduler of the machine's is on the PATH."""
    monkeypatch.setattr(states, "FOLDER", tmp_path / "jobs")
    monkeypatch.setenv("BNN_JOBS_DIR", str(tmp_path / "jobs"))
    return tmp_path / "jobs"


def dry(capsys, what, *arguments):
    assert submit.main([what, "--dry-run", *map(str, arguments)]) == 0
    return capsys.readouterr().out


ASKED = ["--nodes", 2, "--ranks-per-node", 4, "--threads", 2, "--time", "1:02:03", "--queue", "q", "--account", "acc"]


def test_the_script_for_cobalt(capsys):
    text = dry(capsys, "train", "--scheduler", "cobalt", *ASKED, "--attribute", "attrs=mcdram=cache:numa=quad")
    options = dict(fake_launchers.directives("cobalt", text))
    assert options.items() >= {
        "--nodecount": "2", "--time": "63", "--queue": "q", "--project": "acc", "--attrs": "mcdram=cache:numa=quad",
        "--cwd": str(ROOT), "--jobname": "bnn-train",
    }.items()  # fmt: skip
    # Cobalt hands over no variables by itself.
    assert f"PATH={os.environ['PATH']}" in shlex.split(text, comments=True)


@pytest.mark.parametrize(
    ("kind", "more", "chunks"),
    [
        ("pbs", ["--attribute", "select=mem=3gb"], "select=2:ncpus=8:mpiprocs=4:mem=3gb"),
        ("pbs", ["--system", "crux"], "select=2:system=crux"),
        ("pbs", ["--attribute", "select=system=crux"], "select=2:system=crux"),
        ("pbs_classic", [], "nodes=2:ppn=8"),
    ],
)
def test_the_script_for_pbs(capsys, kind, more, chunks):
    wanted = ["--filesystems", "home:eagle", "--attribute", "l=naccelerators=0", "--attribute", "r=y", *more]
    text = dry(capsys, "notebooks", "--scheduler", kind, *ASKED, *wanted)
    options = fake_launchers.directives("pbs", text)
    resources = [value for name, value in options if name == "-l"]
    assert chunks in resources and "walltime=1:2:3" in resources
    assert "filesystems=home:eagle,naccelerators=0" in resources
    assert {("-q", "q"), ("-A", "acc"), ("-N", "bnn-notebooks"), ("-r", "y")} <= set(options)
    assert not any("system=crux" in value for name, value in options if name != "-l")
    if kind == "pbs":
        assert "place=scatter" in resources
        assert "place=scatter:exclhost" in dry(capsys, "notebooks", "--scheduler", kind, "--exclusive", *more)
    # Where PBS gives whole nodes, its node file no longer counts the ranks.
    words = shlex.split(text, comments=True)
    assert {"BNN_RANKS_PER_NODE=4", "OMP_NUM_THREADS=2"} <= set(words)


@pytest.mark.parametrize(
    ("scheduler", "option", "line"),
    [("slurm", "job-name", '#SBATCH --job-name="mine"'), ("pbs", "N", '#PBS -N "mine"'),
     ("pbs_classic", "N", '#PBS -N "mine"'), ("cobalt", "jobname", "#COBALT --jobname=mine")],
)  # fmt: skip
def test_a_job_has_one_name_which_may_be_chosen(capsys, scheduler, option, line):
    chosen = dry(capsys, "train", "--scheduler", scheduler, "--attribute", f"{option}=mine")
    assert chosen.splitlines().count(line) == 1 and option not in chosen.replace(line, "").split()
    usual = dry(capsys, "train", "--scheduler", scheduler)
    assert len(chosen.splitlines()) == len(usual.splitlines()) and line.replace("mine", "bnn-train") in usual


def test_the_script_for_slurm(capsys):
    text = dry(capsys, "train", "--scheduler", "slurm", *ASKED, "--attribute", "qos=debug", "--", "--model=a b")
    for line in ("nodes=2", "ntasks-per-node=4", "cpus-per-task=2", "time=1:2:3", 'partition="q"', 'account="acc"'):
        assert f"#SBATCH --{line}\n" in text
    assert '#SBATCH --qos="debug"\n' in text and "exclusive" not in text
    more = ["--exclusive", "--attribute", "requeue", "--attribute", "constraint=gpu&hbm80g"]
    flags = dry(capsys, "train", "--scheduler", "slurm", *more).splitlines()
    assert {"#SBATCH --exclusive", "#SBATCH --requeue", '#SBATCH --constraint="gpu&hbm80g"'} <= set(flags)
    words = shlex.split(text, comments=True)
    start = words.index("cluster.launcher")
    python = words[start - 2]
    assert words[start + 1 : start + 8] == ["-n", "8", python, "-m", "helpers.train", "--num_intra=2", "--model=a b"]
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "pbs_classic", "cobalt", "local"])
def test_no_argument_of_the_command_means_anything_to_a_template_or_shell(capsys, scheduler):
    given = ["--model=a b", "--x='q\"$HOME", "", "{{time}}", "&&", "*", "--only"]
    words = shlex.split(dry(capsys, "train", "--scheduler", scheduler, "--", *given), comments=True)
    assert words[-len(given) :] == given


def test_this_machine_gets_a_command(capsys):
    words = shlex.split(dry(capsys, "notebooks", "--scheduler", "local", "--time", 3, "--", "--only", "06"))
    assert words[words.index("cluster.jobs.wrapper") + 2] == "180"
    assert words[-5:] == ["cluster.run_notebooks", "--ranks", "2", "--only", "06"]


def files_below(*folders):
    """All files and folders, with sizes and times."""
    return {path: path.lstat()[6:] for folder in folders for path in folder.rglob("*")}


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "pbs_classic", "cobalt", "local"])
def test_a_dry_run_writes_no_file(tmp_path, scheduler):
    (tmp_path / "file").touch()
    environment = os.environ | dict.fromkeys(["HOME", "TMPDIR"], str(tmp_path)) | {"PYTHONPATH": str(ROOT)}
    environment |= {"BNN_JOBS_DIR": str(tmp_path / "file" / "jobs"), "PYTHONDONTWRITEBYTECODE": "1"}
    before = files_below(tmp_path, ROOT / "build" / "jobs", ROOT / "cluster")
    words = [sys.executable, "-m", "cluster.submit", "notebooks", "--dry-run", "--scheduler", scheduler]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "cluster.run_notebooks" in done.stdout and not done.stderr
    assert files_below(tmp_path, ROOT / "build" / "jobs", ROOT / "cluster") == before


def fake(tmp_path, monkeypatch, scheduler, answer):
    """Put the scheduler's commands first on the PATH. The first one keeps the script, and all give the answer."""
    for program in states.PROGRAMS[scheduler]:
        (tmp_path / program).write_text(f'#!/bin/sh\n[ -f "$1" ] && cat "$1" >{tmp_path}/seen\n{answer}\n')
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "pbs_classic", "cobalt"])
@pytest.mark.parametrize("what", ["notebooks", "train"])
def test_what_is_submitted_is_what_the_dry_run_shows(tmp_path, monkeypatch, capsys, folder, scheduler, what):
    fake(tmp_path, monkeypatch, scheduler, "echo 4007")
    words = [what, "--scheduler", scheduler, *map(str, ASKED)]
    shown = dry(capsys, what, *words[1:])
    assert submit.main(words) == 0
    assert f"{scheduler} job 4007 submitted" in capsys.readouterr().out
    (job,) = folder.iterdir()
    assert {path.name for path in job.iterdir()} == {"job.json", "job.sh"}
    name = re.search(rf"[0-9]{{8}}-[0-9]{{6}}-{what}-[0-9a-f]{{6}}", shown)[0]
    assert (tmp_path / "seen").read_text() == shown.replace(name, job.name)


@pytest.mark.parametrize("scheduler", ["slurm", "local"])
def test_a_jobs_folder_that_cannot_be_made_is_told_in_one_line(tmp_path, monkeypatch, capsys, scheduler):
    fake(tmp_path, monkeypatch, "slurm", "echo 7")
    (tmp_path / "file").touch()
    monkeypatch.setattr(states, "FOLDER", tmp_path / "file" / "jobs")
    assert submit.main(["train", "--scheduler", scheduler]) == 2
    out, said = capsys.readouterr()
    assert said.startswith(f"cluster.submit: cannot write in {tmp_path}/file/jobs/") and said.count("\n") == 1
    assert "(Not a directory), so no job was submitted. Set BNN_JOBS_DIR" in said and not out
    assert not (tmp_path / "seen").exists()


def test_a_job_without_a_number_or_a_record_is_told(tmp_path, monkeypatch, capsys, folder):
    fake(tmp_path, monkeypatch, "slurm", "true")
    assert submit.main(["train"]) == 2
    assert "sbatch gave no job number. It said: nothing" in capsys.readouterr().err
    fake(tmp_path, monkeypatch, "slurm", f"rm -r {folder}; echo 7")
    assert submit.main(["train"]) == 2
    assert re.search(r"slurm job 7 is submitted, but \S+/job.json cannot be written", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("limit", "hours"),
    [("90", "1:30:0"), ("1:00", "1:0:0"), ("90:00", "90:0:0"), ("30:00:00", "30:0:0"), ("0:00:30", "0:0:30"),
     ("1-00:00:00", "24:0:0"), ("2-12", "60:0:0"), ("1-06:30", "30:30:0")],
)  # fmt: skip
def test_a_limit_is_read_as_schedulers_write_it(capsys, limit, hours):
    assert f"#SBATCH --time={hours}\n" in dry(capsys, "train", "--scheduler", "slurm", "--time", limit).replace('"', "")


@pytest.mark.parametrize(("name", "right"), [("jobs", "jobs"), ("./a/../jobs", "jobs"), ("", ROOT / "build" / "jobs")])
def test_the_jobs_folder_is_absolute_because_jobs_run_in_another(tmp_path, name, right):
    script = "from cluster.jobs import states; print(states.FOLDER)"
    environment = {**os.environ, "BNN_JOBS_DIR": name, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    found = Path(done.stdout.strip())
    assert found.is_absolute() and os.path.normpath(found) == str(tmp_path / right)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--nodes", "0"], "argument --nodes: expected 1 or more, found '0'"),
        (["train", "--ranks-per-node", "x"], "expected 1 or more, found 'x'"),
        (["train", "--time", "1h"], "expected H:MM:SS, H:MM or minutes, found '1h'"),
        (["train", "--time", "0:00"], "expected H:MM:SS"),
        (["train", "--time", "1:75:00"], "expected H:MM:SS"),
        (["train", "--time", "1-"], "expected H:MM:SS"),
        (["train", "--time", "0-00:00:00"], "expected H:MM:SS"),
        (["train", "--scheduler", "lsf"], "invalid choice: 'lsf'"),
        (["train", "--scheduler", "slurm", "--attribute", "qos"], "--attribute 'qos': expected NAME=VALUE"),
        (["train", "--scheduler", "slurm", "--attribute", "job-name=Big run"], "expected NAME=VALUE without spaces"),
        (["train", "--scheduler", "slurm", "--attribute", "qos=a b"], "expected NAME=VALUE without spaces"),
        (["train", "--scheduler", "slurm", "--attribute", "array=1-3"], "'array=1-3': cluster.submit takes no"),
        (["train", "--scheduler", "slurm", "--attribute", "a=1-3"], "takes no job arrays, because each of its jobs"),
        (["train", "--scheduler", "pbs", "--attribute", "J=1-3"], "Submit a job for each value, or let one job run"),
        (["notebooks", "--scheduler", "pbs_classic", "--attribute", "t=1-3"], "takes no job arrays"),
        (["train", "--array", "1-3"], "argument --array: cluster.submit takes no job arrays"),
        (["train", "--scheduler", "local", "--nodes", "2"], "this machine is one node"),
        (["train", "--scheduler", "local", "--queue", "debug"], "this machine is one node without queues"),
        (["train", "--scheduler", "slurm", "--attribute", "partitoin=x"], "slurm has no option partitoin"),
        (["train", "--scheduler", "slurm", "--attribute", "nodes=3"], "slurm has no option nodes that can be set here"),
        (["train", "--scheduler", "pbs", "--attribute", "filesystems=home:eagle"], "written l=filesystems=home:eagle"),
        (["train", "--scheduler", "cobalt", "--attribute", "qos=debug"], "cobalt has no option qos"),
        (["train", "--scheduler", "cobalt", "--exclusive"], "it always gives whole nodes"),
        (["train", "--scheduler", "slurm", "--filesystems", "home"], "slurm has no --filesystems"),
        (["train", "--scheduler", "pbs_classic", "--system", "crux"], "pbs_classic has no --system"),
        (["train", "--scheduler", "local", "--exclusive"], "this machine is one node"),
        (["train", "--scheduler", "cobalt", "--queue", "a b"], "--queue 'a b': expected a name without spaces"),
        (["train", "--scheduler", "slurm", "--account", 'a"\n#SBATCH --x'], "expected a name without spaces"),
        (["train", "--scheduler", "pbs", "--system", ""], "--system '': expected a name"),
        (["train", "--scheduler", "pbs_classic", "--attribute", "select=mem=1gb"], "pbs_classic has no option select"),
        (["notebooks", "--", "--olny", "06"], "refuses the arguments after --: unrecognized arguments: --olny"),
        (["notebooks", "--dry-run", "--", "--profile", "fast"], "argument --profile: invalid choice: 'fast'"),
        (["notebooks", "--profile", "quick"], "unrecognized arguments: --profile"),
        (["status", "17"], "No job 17 was submitted from here. Those in "),
        (["cancel", "17"], "No job 17 was submitted from here"),
        (["sing"], "invalid choice: 'sing'"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(capsys, arguments, said):
    try:
        status = submit.main(arguments)
    except SystemExit as stop:
        status = stop.code
    out, errors = capsys.readouterr()
    assert status == 2 and out == ""
    assert errors.startswith("cluster.submit: ") and said in errors and errors.count("\n") == 1


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "cobalt"])
def test_a_scheduler_that_is_not_here_is_told(monkeypatch, capsys, folder, tmp_path, scheduler):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert submit.main(["train", "--scheduler", scheduler]) == 2
    assert f"{states.PROGRAMS[scheduler][0]}, " in capsys.readouterr().err
    assert not list(folder.glob("*train*"))


def test_a_scheduler_that_does_not_answer_is_told(monkeypatch, capsys, tmp_path, folder):
    fake(tmp_path, monkeypatch, "slurm", "exec sleep 60")
    monkeypatch.setattr(states, "ANSWER", 0.5)
    assert submit.main(["train"]) == 2
    assert "sbatch did not answer within 0 seconds: the scheduler may be down" in capsys.readouterr().err
    assert not list(folder.glob("*train*"))
    assert not [child for child in psutil.Process().children() if "sleep" in child.name()]
