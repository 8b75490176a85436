"""What the closing cell of a notebook and the summary of a run say of the job and the machine."""

import sys
from types import SimpleNamespace

from helpers import provenance

import pytest

JOBS = ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "PBS_JOBID", "COBALT_JOBID", "LOADEDMODULES")


@pytest.fixture
def outside(monkeypatch):
    """No job and no modules."""
    for name in JOBS:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PBS_JOBID": "1234.polaris"}, "pbs 1234.polaris"),
        ({"COBALT_JOBID": "78"}, "cobalt 78"),
        ({"SLURM_JOB_ID": "7"}, "slurm 7"),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[0-3]"}, "slurm 7 on node[0-3]"),
    ],
)
def test_a_job_is_named_by_its_scheduler_and_number(outside, capsys, variables, said):
    for name, value in variables.items():
        outside.setenv(name, value)
    assert provenance.collect()["job"] == said
    provenance.report()
    assert f"{'job':24}{said}\n" in capsys.readouterr().out


def test_loaded_modules_are_listed(outside, capsys):
    outside.setenv("LOADEDMODULES", "PrgEnv-gnu/8.5.0:cray-mpich/8.1.28:")
    assert provenance.collect()["modules"] == "PrgEnv-gnu/8.5.0, cray-mpich/8.1.28"
    provenance.report()
    assert f"{'modules':24}PrgEnv-gnu/8.5.0, cray-mpich/8.1.28\n" in capsys.readouterr().out


@pytest.mark.parametrize("modules", [None, ""])
def test_without_job_and_modules_there_is_no_line_for_them(outside, capsys, modules):
    if modules is not None:
        outside.setenv("LOADEDMODULES", modules)
    assert not {"job", "modules"} & set(provenance.collect())
    provenance.report()
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith(("job", "modules"))]


@pytest.mark.parametrize(("code", "version"), [(2708, "2.7.8"), (21805, "2.18.5"), (23207, "2.32.7")])
def test_the_version_of_nccl_that_horovod_was_built_with_is_named(monkeypatch, code, version):
    """`nccl_built` returns NCCL_VERSION_CODE. nccl.h of 2.8 and before makes it of 1000 x, later ones of 10000 x."""
    built = SimpleNamespace(nccl_built=lambda: code, mpi_built=lambda: True, gloo_built=lambda: False)
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", built)
    assert provenance.collect()["horovod"].endswith(f", built with NCCL {version}, MPI")


def test_a_horovod_without_nccl_does_not_name_it(monkeypatch):
    built = SimpleNamespace(nccl_built=lambda: 0, mpi_built=lambda: True, gloo_built=lambda: True)
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", built)
    assert provenance.collect()["horovod"].endswith(", built with MPI, Gloo")
