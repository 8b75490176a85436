"""The course on a real JupyterHub, in a real browser: two users at once, each with engines of their own.

It takes minutes, and needs programs that the course itself does not. They are looked for in $BNN_HUB/bin and then on
PATH: jupyterhub, beside it a python3 that has jupyterlab and playwright too; configurable-http-proxy; chromium.

    python3 -m venv HUB && HUB/bin/pip install jupyterhub jupyterlab playwright
    npm install --global --prefix HUB configurable-http-proxy
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cluster import engines
from helpers import ROOT

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

from tests.support.processes import assert_gone, children
from tests.support.slurm_machine import free_ports

PROGRAMS = ("jupyterhub", "configurable-http-proxy", "chromium", "make", "unshare", "setpriv")
PLACES = os.pathsep.join([str(Path(os.environ.get("BNN_HUB", "/nowhere"), "bin")), os.environ["PATH"]])
FOUND = {name: shutil.which(name, path=PLACES) for name in PROGRAMS}
LACKING = ", ".join(name for name, path in FOUND.items() if not path)
LACKING = (LACKING and f"no JupyterHub here: {LACKING} not found") or " ".join(engines.missing())

HUB = ROOT / "tests" / "support" / "hub"
NOTEBOOK = "06_horovod.ipynb"
PATIENCE = 600  # seconds for all cells of both
# Numbers that nobody has; who is not root can give nobody another.
USERS = {"first": 61001, "second": 61002} if os.geteuid() == 0 else {"first": None, "second": None}
# A last cell, which leaves engines behind for the server to end.
LAST = """import json, os, shutil, sys
ranks = engines.start(2)
print(json.dumps({"ids": ranks.client.ids, "pids": ranks.apply_sync(os.getpid), "mpiexec": shutil.which("mpiexec"),
                  "folder": str(ranks.engine_set.folder), "python": sys.executable}))"""


def opened(folder, paths):
    """Words before a command that let other users reach `paths` where a folder above is closed to them.

    In a mount namespace of the command's own, such a folder holds nothing but the paths. `folder` is for its use.
    """
    lines, closed = [], []
    for number, path in enumerate(sorted({Path(path) for path in paths})):
        above = next((parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001), None)
        if above:
            closed.append(above)
            kept = folder / f"kept-{number}"
            lines.insert(0, f"mkdir -p {kept}; mount --rbind {path} {kept}")
            lines.append(f"mkdir -p {path}; mount --rbind {kept} {path}")
    if not closed or os.geteuid() != 0:
        return []
    hide = [f"mount -t tmpfs -o mode=755 none {above}" for above in sorted(set(closed))]
    half = len(lines) // 2
    return ["unshare", "--mount", "sh", "-ec", "; ".join([*lines[:half], *hide, *lines[half:], 'exec "$@"']), "sh"]


def as_user(number):
    """Words before a command that make it the user's."""
    return [] if number is None else ["setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups"]


def prefixes(python):
    """The folders of a Python, and of the one that its environment was made from."""
    ask = [python, "-c", "import sys; print(sys.prefix, sys.base_prefix, sep='\\n')"]
    return subprocess.run(ask, check=True, capture_output=True, text=True, timeout=30).stdout.splitlines()


@pytest.fixture
def folder():
    """A folder that all users can enter, as pytest's own cannot be."""
    made = Path(tempfile.mkdtemp(prefix="bnn-hub-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def hub(folder):
    """A running hub on this machine, with a home for each user: a dict of what its parts were told."""
    python = str(Path(FOUND["jupyterhub"]).parent / "python3")
    if subprocess.run([python, "-c", "import jupyterlab, playwright"], capture_output=True, timeout=60).returncode:
        pytest.skip(f"no JupyterHub here: {python} has no jupyterlab or no playwright")
    outer = foreign(folder, Path(python).parent)
    view = opened(folder, [ROOT, *prefixes(sys.executable), *prefixes(python)])
    for name, number in USERS.items():
        home = folder / name
        home.mkdir(mode=0o700)
        notebook = nbformat.read(ROOT / "notebooks" / NOTEBOOK, 4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        notebook.cells.append(nbformat.v4.new_code_cell(LAST))
        nbformat.write(notebook, home / NOTEBOOK)
        if number is not None:
            os.chown(home, number, number)
            os.chown(home / NOTEBOOK, number, number)
        register(home, outer, number, view)
    ports = free_ports(3)
    told = {
        "homes": str(folder),
        "users": USERS,
        "url": f"http://127.0.0.1:{ports[0]}",
        "hub_port": ports[1],
        "proxy_port": ports[2],
        "proxy": FOUND["configurable-http-proxy"],
        "server": str(Path(python).parent / "jupyterhub-singleuser"),
        "password": secrets.token_hex(),
        "notebook": NOTEBOOK,
        "environment": {"BNN_OFFLINE": "1", "BNN_QUIET": "1", "PYTHONPATH": outer["PYTHONPATH"]},
    }
    (folder / "hub").mkdir(mode=0o700)
    environment = {**os.environ, **outer, "HUB_TEST": json.dumps(told)}
    words = [FOUND["jupyterhub"], "-f", str(HUB / "jupyterhub_config.py")]
    with open(folder / "hub" / "log", "w") as log:
        process = subprocess.Popen([*view, *words], cwd=folder / "hub", env=environment, stdout=log, stderr=log)
    try:
        yield {**told, "python": python, "process": process}
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            print((folder / "hub" / "log").read_text()[-6000:])


def foreign(folder, *places):
    """PATH and PYTHONPATH of a hub: without this Python, and with packages that are not for it."""
    (folder / "foreign").mkdir()
    (folder / "foreign" / "numpy.py").write_text("raise ImportError('this is the numpy of the hub')")
    path = [place for place in os.environ["PATH"].split(os.pathsep) if place != str(Path(sys.executable).parent)]
    return {"PATH": os.pathsep.join([*map(str, places), *path]), "PYTHONPATH": str(folder / "foreign")}


def register(home, environment, number=None, view=()):
    """`make kernel` for the user of `home`, with this Python in the place of .venv's, and without a set-up."""
    make = ["make", "--old-file=setup", "kernel", f"BIN={Path(sys.executable).parent}"]
    environment = {**environment, "HOME": str(home)}
    done = subprocess.run(
        [*view, *as_user(number), *make], cwd=ROOT, env=environment, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return home / ".local" / "share" / "jupyter"


def await_that(true, what, seconds=60):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.2)


def alive(pids):
    return [pid for pid in pids if psutil.pid_exists(pid)]


@pytest.mark.skipif(not FOUND["make"], reason="make is not installed")
def test_the_kernel_takes_what_its_shell_has_for_the_course_and_nothing_of_the_hubs_python(tmp_path, monkeypatch):
    outer = foreign(tmp_path)
    shell = {
        "BNN_DATA_DIR": "/of a shell",
        "BNN_RUNS_DIR": "$${HOME}/runs",
        "http_proxy": "proxy:3128",
        "CUDA_VISIBLE_DEVICES": "-1",
        "EDITOR": "vi",
    }
    data = register(tmp_path, {**outer, **shell})
    kernel = json.loads((data / "kernels" / "bnn-course" / "kernel.json").read_text())
    assert kernel["argv"][0] == sys.executable and kernel["display_name"] == "BNN course"
    assert kernel["env"]["BNN_DATA_DIR"] == "/of a shell" and kernel["env"]["http_proxy"] == "proxy:3128"
    assert kernel["env"]["CUDA_VISIBLE_DEVICES"] == "-1"  # hides the GPUs
    assert "EDITOR" not in kernel["env"]

    variables = {**outer, "HOME": str(tmp_path), "JUPYTER_PATH": str(data), "PYTHONHOME": "/nowhere"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    source = "import numpy, os, shutil\nprint(os.environ['BNN_RUNS_DIR'], shutil.which('python'))"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, timeout=60, kernel_name="bnn-course").execute()
    assert notebook.cells[0].outputs[0].text == f"{tmp_path}/runs {Path(sys.executable).parent}/python\n"


@pytest.mark.timeout(1200)
@pytest.mark.skipif(bool(LACKING), reason=LACKING)
def test_two_users_at_once_run_the_notebook_with_engines_of_their_own(hub, folder):
    words = [hub["python"], str(HUB / "browse.py"), FOUND["chromium"], hub["url"], hub["password"], str(folder)]
    await_that(lambda: "JupyterHub is now running" in (folder / "hub" / "log").read_text(), "the hub did not come up")
    browser = subprocess.Popen(
        [*words, NOTEBOOK, str(PATIENCE), *USERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    family = []
    try:
        said = browser.stdout.readline()
        assert said.startswith("ran "), said
        seen, last = json.loads(said[4:]), {}
        for name in USERS:
            cells = [cell for cell in nbformat.read(folder / name / NOTEBOOK, 4).cells if cell.cell_type == "code"]
            outputs = [output for cell in cells for output in cell.outputs]
            wrong = [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
            assert not wrong, wrong
            assert all(cell.execution_count for cell in cells if cell.source), f"not all cells were run in {PATIENCE} s"
            figures = [o for o in outputs if "image/png" in o.get("data", {})]
            assert seen[name]["figures"] == len(figures) > 4
            assert "rank 0 of 2" in seen[name]["said"] and "rank 1 of 2" in seen[name]["said"]
            last[name] = json.loads(cells[-1].outputs[0].text)

        first, second = last.values()
        for name, facts in last.items():
            assert facts["ids"] == [0, 1] and alive(facts["pids"]) == facts["pids"]
            assert facts["python"] == sys.executable
            assert facts["mpiexec"] == shutil.which("mpiexec", path=str(Path(sys.executable).parent))
            owners = {psutil.Process(pid).uids().real for pid in facts["pids"]}
            assert owners == {USERS[name] or os.geteuid()}
            # Keys and ports of a user's engines are the user's alone.
            assert Path(facts["folder"]).stat().st_mode & 0o077 == 0
            others = [*as_user(next(n for other, n in USERS.items() if other != name)), "ls", facts["folder"]]
            listed = subprocess.run(others, capture_output=True, text=True, timeout=30)
            assert USERS[name] is None or (listed.returncode and "Permission denied" in listed.stderr)
        assert first["folder"] != second["folder"] and not set(first["pids"]) & set(second["pids"])

        # Who stops the server ends the engines with it; who logs out does not, unless the hub is set up so.
        family = children()
        browser.stdin.write("\n")
        browser.stdin.close()
        assert browser.wait(120) == 0
        await_that(lambda: not alive(first["pids"]) and not Path(first["folder"]).exists(), "engines without a server")
        assert alive(second["pids"]) == second["pids"]
        hub["process"].terminate()
        hub["process"].wait(60)
        assert_gone(family, seconds=30)
        assert not Path(second["folder"]).exists()
    finally:
        browser.kill()
        browser.wait()
        browser.stdout.close()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
