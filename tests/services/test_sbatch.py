"""The job scripts for Slurm, as sbatch itself reads them."""

import subprocess

import pytest

from tests.support import slurm_machine
from tests.support.job_scripts import FOLDER

needs_slurm = pytest.mark.skipif(bool(slurm_machine.missing()), reason=slurm_machine.missing())


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
