"""Test batch runs that meet a full disk, a home that cannot be written, another run, or a kernel that dies."""

import errno
import os
import shlex
import subprocess
import sys
import time

from cluster import engines, run_notebooks
from cluster.batch import execute, sweep
from helpers import ROOT

import pytest

from tests.support.notebooks import command, good, notebook, text_of, wait_for
from tests.support.processes import assert_gone, children

pytestmark = pytest.mark.timeout(600)
# Only the command sees a mount in its own namespace, and the mount disappears with the command.
UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]


def cannot_mount():
    try:
        words = [*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=20)
        return done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


NO_MOUNT = cannot_mount()
mounts = pytest.mark.skipif(bool(NO_MOUNT), reason=f"no file system can be mounted for a test here: {NO_MOUNT}")


def alone(script, **environment):
    """Run a shell script in its own mount namespace."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    words = [*UNSHARE, "bash", "-euc", script]
    return subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=550)


def batch(*arguments):
    return shlex.join([sys.executable, "-m", "cluster.run_notebooks", *map(str, arguments)])


@mounts
def test_a_full_disk_is_told_and_the_copy_that_was_there_stays(tmp_path):
    fine = good(tmp_path)
    out, kept = tmp_path / "out", tmp_path / "kept"
    big = notebook(tmp_path, "02_big.ipynb", fill="print('x' * 3_000_000)", after="print('and more')")
    done = alone(
        f"""
        mkdir {out} {kept}; mount -t tmpfs -o size=5m none {out}
        {batch(fine, "--output", out)}
        cp {out}/notebooks/01_good.ipynb {kept}/before
        {batch(big, "--output", out)} || echo status $? >&2
        head -c 9m /dev/zero >{out}/filler || true
        {batch(fine, "--output", out)} || echo status $? >&2
        cp {out}/notebooks/01_good.ipynb {kept}/after; ls -A {out}/notebooks >{kept}/list
        """
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith(("0", "status"))]
    full = "the output cannot be written ([Errno 28] No space left on device); make room for it"
    assert said == [f"02_big.ipynb: cell fill: {full}", "status 1", f"01_good.ipynb: {full}", "status 1"]
    assert "Traceback" not in done.stderr
    assert (kept / "after").read_text() == (kept / "before").read_text()
    assert not [name for name in (kept / "list").read_text().split() if "part" in name]


@mounts
@pytest.mark.skipif(bool(engines.missing(horovod=False)), reason="no MPI engines here")
def test_a_home_that_cannot_be_written_is_not_needed(tmp_path):
    ranks = notebook(
        tmp_path,
        "01_ranks.ipynb",
        home="import os, pathlib\ntry:\n    (pathlib.Path.home() / 'x').write_text('')\n"
        "except OSError as error:\n    print(error.errno)",
        figure="import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])",
        start="from cluster import engines\nranks = engines.start(2)",
        places="%%px\nfrom mpi4py import MPI\nprint(MPI.COMM_WORLD.rank)",
    )
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    variables = ["XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "IPYTHONDIR",
                 "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "MPLCONFIGDIR"]  # fmt: skip
    done = alone(
        f"unset {' '.join(variables)}; mount -t tmpfs -o ro none {home}; {batch(ranks, '--output', out)}",
        HOME=str(home),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert text_of(out / "notebooks" / ranks.name, "home") == f"{errno.EROFS}\n"
    assert text_of(out / "notebooks" / ranks.name, "places") == "[stdout:0] \n0\n[stdout:1] \n1\n"


@mounts
def test_an_output_folder_that_cannot_be_written_is_told_before_anything_runs(tmp_path):
    fine = good(tmp_path)
    out = tmp_path / "out"
    done = alone(f"mkdir {out}; mount -t tmpfs -o ro none {out}; {batch(fine, '--output', out / 'here')}")
    assert done.returncode == 2 and done.stdout == ""
    assert f"cannot write in {out}/here (Read-only file system)" in done.stderr
    assert done.stderr.startswith("--output: ") and done.stderr.count("\n") == 1


def test_of_two_runs_in_one_folder_the_second_is_refused(tmp_path, capsys):
    mark, go = tmp_path / "going", tmp_path / "go"
    long = notebook(
        tmp_path,
        "01_long.ipynb",
        wait=f"import os, time\nopen({str(mark)!r}, 'w')\n"
        f"until = time.monotonic() + 100\nwhile not os.path.exists({str(go)!r}) and time.monotonic() < until:\n"
        "    time.sleep(0.1)\nprint('done')",
    )
    out = tmp_path / "out"
    first = command(long, "--output", out)
    wait_for(mark, first)
    began = time.monotonic()
    assert run_notebooks.main([str(long), "--output", str(out)]) == 2
    assert time.monotonic() - began < 20
    said = capsys.readouterr().err
    assert said.startswith(f"--output: {out} is in use by ") and said.count("\n") == 1
    assert f"(process {first.pid} on " in said and "wait for its end, or give another folder" in said
    go.touch()
    first.communicate(timeout=200)
    assert first.returncode == 0 and text_of(out / "notebooks" / long.name, "wait") == "done\n"
    # A killed run does not hold the folder.
    go.unlink()
    mark.unlink()
    second = command(long, "--output", out)
    family = wait_for(mark, second)
    second.kill()
    second.communicate(timeout=20)
    assert_gone(family)
    go.touch()
    assert run_notebooks.main([str(long), "--output", str(out)]) == 0


def test_the_last_good_copy_stays_beside_that_of_a_kernel_that_died(tmp_path):
    path = notebook(tmp_path, "01_nb.ipynb", work="print('good')")
    out = tmp_path / "out"
    copies = out / "notebooks"
    (fine,) = execute.run(sweep.expand({path: {}}), output=out)
    assert fine.ok
    before = (copies / path.name).read_text()
    notebook(
        tmp_path, path.name, work="print('so far')", death="import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    for _ in range(2):
        (dead,) = execute.run(sweep.expand({path: {}}), output=out)
        assert dead.message == "cell death: DeadKernelError: Kernel died"
        assert text_of(copies / path.name, "work") == "so far\n"
        assert (copies / "01_nb.last-good.ipynb").read_text() == before
        assert (copies / "01_nb.last-good.html").is_file()
    notebook(tmp_path, path.name, work="print('again')")
    (fine,) = execute.run(sweep.expand({path: {}}), output=out)
    assert fine.ok and {path.name for path in copies.iterdir()} == {"01_nb.ipynb", "01_nb.html"}
    assert_gone(children())
