"""Register jobs with Balsam, run them with a server of this machine, and collect the CSV files for notebook 07."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from cluster import engines, scaling
from cluster.balsam import add_jobs, collect, server
from helpers.files import read_csv

import pytest

from tests.support import balsam_server, fake_launchers
from tests.support.processes import assert_gone, children

MISSING = balsam_server.missing() or " ".join(engines.missing())
real = pytest.mark.skipif(bool(MISSING), reason=MISSING)
SMALL = ["--models", "CNN_FC", "--rounds", "2", "--steps", "1", "--settings-nodes", "0"]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(scaling, "SIZES", (1000,))


def test_a_dry_run_prints_each_job_and_does_not_ask_balsam(monkeypatch, capsys):
    monkeypatch.setenv(server.PYTHON, "/nowhere")
    words = ["--site", "polaris", "--nodes", "1", "4", "--ranks-per-node", "8", "--threads-per-rank", "4", "--dry-run"]
    assert add_jobs.main([*words, "--models", "CNN_FC"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("8 ranks on each, 4 threads") == 2 + len(scaling.SETTINGS)
    assert "scaling/default-8-ranks: 1 nodes" in printed and "scaling/default-32-ranks: 4 nodes" in printed
    assert "scaling/cycle-20ms-16-ranks: 2 nodes" in printed and "HOROVOD_CYCLE_TIME=20 " in printed
    assert f"{sys.executable} -m helpers.step_times --models CNN_FC" in printed
    with pytest.raises(SystemExit):
        add_jobs.main([*words, "--global_batch", "31"])
    assert "at least one example for each rank" in capsys.readouterr().err


@pytest.mark.parametrize(
    "python, said",
    [("", "is not set"), ("/nowhere/python", "No such file"), (sys.executable, "has no Balsam: ")],
)
def test_without_balsam_one_line_says_so(monkeypatch, capsys, python, said):
    monkeypatch.setenv(server.PYTHON, python)
    assert add_jobs.main(["--site", "polaris"]) == 1 and collect.main(["--site", "polaris"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(server.PYTHON in line and said in line for line in lines)


@real
def test_without_a_login_or_a_server_one_line_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("BALSAM_CLIENT_PATH", str(tmp_path / "client.yml"))
    assert add_jobs.main(["--site", "polaris"]) == 1
    assert "balsam login" in (found := capsys.readouterr().err) and found.count("\n") == 1


# Prints the command with which Balsam would start a job on two nodes of a Cray.
COMMANDS = """
import json, shlex, sys
from balsam.platform.app_run import PolarisRun, ThetaAprun
from balsam.site.launcher import NodeSpec
job, nodes = json.load(sys.stdin), NodeSpec(node_ids=["3", "5"], hostnames=["x3", "x5"])
for kind in PolarisRun, ThetaAprun:
    print(kind("sh -c " + shlex.quote(job["command"]), None, {}, ".", "job.out", nodes, job["ranks_per_node"],
               job["threads_per_rank"], 1, {}, 0)._build_cmdline())
"""


@real
def test_balsam_starts_a_job_on_a_cray_with_options_of_the_manuals():
    words = ["--nodes", "2", "--ranks-per-node", "8", "--threads-per-rank", "4", "--settings-nodes", "0"]
    job = add_jobs.jobs(add_jobs.parsed(["--site", "polaris", *words]))[0]
    done = subprocess.run(
        [os.environ[server.PYTHON], "-c", COMMANDS], input=json.dumps(job), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line, program in zip(done.stdout.splitlines(), ("mpiexec", "aprun"), strict=True):
        name, *said = shlex.split(line)
        options, command = fake_launchers.parse_options(program, said)
        assert name == program and command == ["sh", "-c", job["command"]]
        assert {("-np" if program == "mpiexec" else "-n", "16"), ("-d", "4")} <= set(options)


@pytest.fixture(scope="module")
def balsam():
    before = {process.pid for process in children()}
    with balsam_server.balsam() as environment:
        yield environment
        ours = [process for process in children() if process.pid not in before]
    assert ours
    assert_gone(ours)


@pytest.fixture
def here(balsam, monkeypatch):
    for key, value in balsam.items():
        monkeypatch.setenv(key, value)
    return Path(balsam["BALSAM_SITE_PATH"])


@real
@pytest.mark.timeout(800)
def test_jobs_run_on_their_nodes_and_results_are_collected(here, small, tmp_path, capsys):
    site = ["--site", balsam_server.SITE]
    assert add_jobs.main([*site, "--nodes", "1", "2", *SMALL, "--before", "export SEEN=1"]) == 0
    assert "jobs 1, 2" in capsys.readouterr().out
    assert add_jobs.main([*site, "--nodes", "1", "--study", "bad", *SMALL, "--models", "no_such"]) == 0
    assert add_jobs.main([*site, "--nodes", "1", *SMALL]) == 1
    assert "already has jobs of a study 'scaling'" in capsys.readouterr().err
    assert add_jobs.main(["--site", "there", "--nodes", "1", *SMALL]) == 1
    assert f"Balsam knows no site 'there' of yours; it knows {balsam_server.SITE}" in capsys.readouterr().err
    assert collect.main([*site, "--output", str(tmp_path)]) == 1 and not list(tmp_path.iterdir())

    queue = [str(Path(os.environ[server.PYTHON]).parent / "balsam"), "queue", "submit", "-j", "mpi", "-n", "2"]
    subprocess.run([*queue, "-t", "10", "-q", "local", "-A", "local"], check=True, timeout=120, capture_output=True)
    until = time.monotonic() + 400
    while collect.main([*site, "--output", str(tmp_path)]) and time.monotonic() < until:
        time.sleep(3)
    said = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split()[1] for line in said] == ["JOB_FINISHED"] * 2, said
    rows = [row for file in sorted(tmp_path.glob("*.csv")) for row in read_csv(file)]
    points = {(row["model"], row["scaling"], row["ranks"], row["batch_size"]) for row in rows}
    weak = {("CNN_FC", "weak", ranks, 64) for ranks in (1, 2)}
    assert points == weak | {
        ("CNN_FC", "strong", 1, 256),
        ("CNN_FC", "strong", 2, 128),
        ("all-reduce", "none", 2, 0),
    }
    log = "".join(path.read_text() for path in (here / "log").glob("mpi_mode*.log"))
    assert "export SEEN=1 && export PATH=" in log
    assert "mpiexec -n 2 --map-by ppr:1:node" in log and "-H 127.0.0.2,127.0.0.3 sh -c " in log

    while collect.main([*site, "--study", "bad", "--output", str(tmp_path)]) and time.monotonic() < until:
        if "FAILED" in (found := capsys.readouterr().out):
            break
        time.sleep(2)
    assert "there is no model 'no_such'" in found
