"""Read the allocation of a job from the schedulers' variables, and tell each launcher how to fill it."""

import os

from cluster import allocation, launcher

import pytest

OF_JOBS = ("COBALT_", "PBS_", "SLURM_", "BNN_RANKS", "BNN_LAUNCHER", "BNN_CPU_BIND", "OMP_NUM_THREADS",
           "TF_NUM_INTRAOP_THREADS")  # fmt: skip


@pytest.fixture
def job(monkeypatch, tmp_path):
    """Return a function that sets a job's variables for this process. `nodes` are the lines of its node file."""
    for name in [name for name in os.environ if name.startswith(OF_JOBS)]:
        monkeypatch.delenv(name)

    def enter(nodes=None, **variables):
        for name, value in variables.items():
            if value is nodes_here:
                (tmp_path / "nodes").write_text("\n".join(nodes) + "\n")
                value = str(tmp_path / "nodes")
            monkeypatch.setenv(name, str(value))

    return enter


nodes_here = object()


def test_outside_of_any_job_there_is_no_allocation(job):
    assert allocation.find() is None and allocation.hosts() == [] and allocation.ranks() == 2


def test_cobalt_gives_the_number_of_nodes_even_without_their_names(job):
    job(COBALT_JOBID=1, COBALT_PARTSIZE=128, COBALT_JOBSIZE=512)
    assert allocation.find() == allocation.Allocation("cobalt", 128, 128, ())
    job(BNN_RANKS_PER_NODE=4, COBALT_NODEFILE=nodes_here, nodes=["nid00001", "nid00002"])
    assert allocation.find() == allocation.Allocation("cobalt", 128, 512, ("nid00001", "nid00002"))


def test_pbs_has_a_line_for_each_rank(job):
    job(PBS_NODEFILE=nodes_here, nodes=["a", "a", "b", "b"])
    assert allocation.find() == allocation.Allocation("pbs", 2, 4, ("a", "b"))
    job(BNN_RANKS_PER_NODE=8)
    assert allocation.ranks() == 16


def test_slurm_abbreviates_tasks_and_hosts(job, monkeypatch, tmp_path):
    (tmp_path / "scontrol").write_text('#!/bin/sh\n[ "$*" = "show hostnames n[1-3]" ] && printf "n1\\nn2\\nn3\\n"\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    job(SLURM_JOB_ID=7, SLURM_JOB_NODELIST="n[1-3]", SLURM_JOB_NUM_NODES=3, SLURM_TASKS_PER_NODE="2(x2),1")
    assert allocation.find() == allocation.Allocation("slurm", 3, 5, ("n1", "n2", "n3"))
    job(SLURM_NTASKS=4)
    assert allocation.ranks() == 4
    job(SLURM_JOB_NODELIST="n9")
    with pytest.raises(allocation.AllocationError, match="scontrol does not say which hosts n9 are"):
        allocation.find()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PBS_NODEFILE": "/nowhere/nodes"}, "PBS_NODEFILE names a file that cannot be read"),
        ({"COBALT_JOBID": 1, "COBALT_PARTSIZE": "many"}, "COBALT_PARTSIZE is 'many'; expected a number"),
        ({"COBALT_JOBID": 1, "COBALT_PARTSIZE": 2, "BNN_RANKS_PER_NODE": -1}, "BNN_RANKS_PER_NODE is '-1'"),
    ],
)
def test_a_wrong_variable_is_named(job, capsys, variables, said):
    job(**variables)
    with pytest.raises(allocation.AllocationError, match=said):
        allocation.find()
    assert launcher.main(["true"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("PALS 1.4", "--ppn 4 --depth 2 --cpu-bind depth"),
        ("something of a Cray", "--ppn 4 --depth 2 --cpu-bind depth"),
        ("HYDRA build details:", "-ppn 4 -bind-to core:2"),
        ("Intel(R) MPI Library", "-ppn 4 -bind-to core:2"),
        ("mpirun (Open MPI) 4.1.8", "-hostfile {nodes} -map-by ppr:4:node --oversubscribe -x BNN_DATA_DIR"),
    ],
)
def test_every_mpiexec_of_a_pbs_job_gets_its_own_options(job, monkeypatch, tmp_path, version, expected):
    (tmp_path / "mpiexec").write_text(f"#!/bin/sh\necho '{version}'\n")
    (tmp_path / "mpiexec").chmod(0o755)
    monkeypatch.setattr(launcher, "search_path", lambda: str(tmp_path))
    monkeypatch.setattr(launcher, "cores", lambda: 4)
    job(PBS_NODEFILE=nodes_here, nodes=["127.0.0.2", "127.0.0.3"], OMP_NUM_THREADS=2, BNN_DATA_DIR="x")
    assert " ".join(launcher.options(8)).startswith(expected.format(nodes=tmp_path / "nodes"))
    job(BNN_LAUNCHER_OPTIONS="--label --mem-bind 'a b'")
    assert launcher.options(8)[-3:] == ["--label", "--mem-bind", "a b"]


def test_aprun_and_srun_spread_ranks_evenly(job):
    job(BNN_LAUNCHER="aprun", COBALT_JOBID=1, COBALT_PARTSIZE=3, OMP_NUM_THREADS=2)
    assert launcher.options(8) == ["-b", "-cc", "depth", "-N", "3", "-d", "2"]
    job(BNN_LAUNCHER="srun")
    spread = ["--nodes=3", "--ntasks-per-node=3", "--cpus-per-task=2"]
    assert launcher.options(8) == ["--cpu-bind=cores", "--kill-on-bad-exit=1", *spread]
    assert launcher.options(2)[2:4] == ["--nodes=2", "--ntasks-per-node=1"]


@pytest.mark.parametrize(
    ("name", "version", "bind", "expected"),
    [
        ("mpiexec", "PALS 1.7", "list:1-8:9-16", "--ppn 2 --cpu-bind list:1-8:9-16"),
        ("mpiexec", "HYDRA build details:", "user:0,8", "-ppn 2 -bind-to user:0,8"),
        ("mpiexec", "mpirun (Open MPI) 4.1.8", "none", "-hostfile NODES -map-by ppr:2:node -bind-to none -x BNN_CPU"),
        ("srun", "", "map_ldom:1,0", "--cpu-bind=map_ldom:1,0 --kill-on-bad-exit=1 --nodes=2 --ntasks-per-node=2"),
        ("aprun", "", "0-7:8-15", "-b -cc 0-7:8-15 -N 2 -d 8"),
    ],
)
def test_the_user_s_own_binding_replaces_the_default(job, monkeypatch, tmp_path, name, version, bind, expected):
    (tmp_path / "mpiexec").write_text(f"#!/bin/sh\necho '{version}'\n")
    (tmp_path / "mpiexec").chmod(0o755)
    monkeypatch.setattr(launcher, "search_path", lambda: str(tmp_path))
    monkeypatch.setattr(launcher, "cores", lambda: 16)
    job(PBS_NODEFILE=nodes_here, nodes=["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3"])
    job(BNN_LAUNCHER=name, BNN_CPU_BIND=bind, OMP_NUM_THREADS=8)
    assert " ".join(launcher.options(4)).replace(str(tmp_path / "nodes"), "NODES").startswith(expected)


def test_open_mpi_binds_each_thread_to_a_core_where_there_are_enough(job, monkeypatch):
    monkeypatch.setattr(launcher, "cores", lambda: 4)
    monkeypatch.setattr(launcher, "_mpi_implementation", lambda: "Open MPI")
    assert launcher.options(4) == ["-bind-to", "core"]
    job(OMP_NUM_THREADS=2)
    assert launcher.options(2) == ["-map-by", "slot:pe=2", "-bind-to", "core"]
    assert launcher.options(3) == ["--oversubscribe"]
    job(BNN_CPU_BIND="none")
    assert launcher.options(2) == ["-bind-to", "none"]
    assert launcher.options(3) == ["-bind-to", "none", "--oversubscribe"]
