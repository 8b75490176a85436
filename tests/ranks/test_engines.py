"""The MPI engines of a notebook: start them, use them, replace them, and leave nothing behind."""

import json

from cluster import allocation, engines, launcher
from helpers import ROOT

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

from tests.support.processes import assert_gone, children, engine_ranks, find

MISSING = engines.missing(horovod=False)
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(MISSING), reason="; ".join(MISSING)),
]


@pytest.fixture(scope="module")
def ranks():
    """Two engines for all tests of this module that leave them running."""
    view = engines.start(2)
    yield view
    engines.stop()
    assert_gone(children(), seconds=10)
    assert not view.engine_set.folder.exists()


def test_engines_that_respond_are_returned_unchanged(ranks, monkeypatch):
    monkeypatch.setenv("BNN_RANKS", "2")
    ranks["x"] = 5
    assert engines.start(2) is ranks and engines.start() is ranks
    assert ranks["x"] == [5, 5]
    assert ranks.targets == [0, 1]


def test_a_rank_that_has_finished_takes_the_next_task(ranks):
    """As cluster/README.md shows it: while one rank has a long task, the other one does all short ones."""

    def wait(seconds):
        import time

        time.sleep(seconds)
        return seconds

    tasks = [3.0, 0.1, 0.2, 0.3]
    results = ranks.client.load_balanced_view().map_async(wait, tasks, ordered=False)
    assert list(results) == [0.1, 0.2, 0.3, 3.0]
    first, *others = results.engine_id
    assert set(others) == {1 - first}


def test_only_loopback_listens_and_only_the_owner_reads(ranks):
    folder = ranks.engine_set.folder
    processes = find("ipyparallel.controller") + engine_ranks() + find("ipyparallel.engine.nanny")
    assert len(processes) >= 5
    listening = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    assert folder.stat().st_mode & 0o777 == 0o700
    files = list(folder.glob("security/ipcontroller-*.json"))
    assert len(files) == 2
    for file in files:
        assert file.stat().st_mode & 0o777 == 0o600
        info = json.loads(file.read_text())
        assert len(info["key"]) >= 32 and info["curve_serverkey"]
    assert {path.suffix for path in engines.PROFILE.iterdir() if path.is_file()} == {".py"}
    assert not (engines.PROFILE / "security").exists()


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("BNN_LAUNCHER", "aprun")
    assert any("aprun is not on the PATH" in sentence for sentence in engines.missing())
    monkeypatch.setenv("BNN_LAUNCHER", "ssh")
    with pytest.raises(ValueError, match="BNN_LAUNCHER is 'ssh'"):
        engines.missing()
    for number in (0, -1, 2.5, "three"):
        with pytest.raises(ValueError, match=f"a whole number of ranks, 1 or more, not {number!r}"):
            engines.start(number)


def test_without_ranks_the_rest_of_a_notebook_does_nothing(monkeypatch):
    monkeypatch.setenv("BNN_LAUNCHER", "aprun")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    sources = ["from cluster import engines\nengines.skip_rest_if_missing()", "%%px\n1 / 0", "1 / 0"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    outputs = [cell.outputs for cell in notebook.cells]
    assert "aprun is not on the PATH" in outputs[0][0].text
    assert outputs[1:] == [[], []]


def test_a_job_on_several_hosts_differs_from_one_machine(tmp_path, monkeypatch):
    assert allocation.hosts() == [] and launcher.address() == "127.0.0.1"
    assert launcher.options(launcher.cores()) == ["-bind-to", "core"]
    assert launcher.options(launcher.cores() + 1) == ["--oversubscribe"]
    nodes = tmp_path / "nodes"
    nodes.write_text("127.0.0.2\n127.0.0.2\n127.0.0.3\n")
    monkeypatch.setenv("PBS_NODEFILE", str(nodes))
    monkeypatch.setenv("BNN_DATA_DIR", "/some/data")
    assert allocation.hosts() == ["127.0.0.2", "127.0.0.3"] and launcher.spans_hosts()
    # This machine's own address towards 127.0.0.2 is one of the loopback's.
    assert launcher.address().startswith("127.0.0.")
    exported = launcher.options(4)
    assert {"IPP_CONNECTION_INFO", "PYTHONPATH", "OMP_NUM_THREADS", "BNN_DATA_DIR"} <= set(exported)
    assert "OMPI_MCA_btl" not in exported
