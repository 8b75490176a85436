"""Downloads from a real server, by one process and by several."""

import hashlib
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

from helpers import ROOT, data, files
from helpers.data import download, standin
from helpers.data.catalogue import DATASETS

import pytest

from tests.support.damage import images
from tests.unit.data.conftest import IDX_FILES, npz, same, write_idx


def left_in(folder):
    """The files in the folder besides its lock."""
    return [path.name for path in folder.iterdir() if path.name != files.NAME]


def test_a_download_is_checked_and_kept(server, change, capsys):
    change("mnist", downloads=(server.offer("mnist.npz", npz()),))
    assert same(data.load("mnist", server.folder), images("mnist"))
    assert left_in(server.folder) == ["mnist.npz"]  # no parts
    mask = os.umask(0)
    os.umask(mask)
    assert (server.folder / "mnist.npz").stat().st_mode & 0o044 == 0o044 & ~mask
    assert capsys.readouterr() == ("", "")  # no progress bar where nobody watches
    data.load("mnist", server.folder)
    assert len(server.requests) == 1


def test_only_missing_files_are_fetched(server, change, tmp_path):
    write_idx(tmp_path / "idx", images("fashion_mnist"))
    raw = {file: (tmp_path / "idx" / file).read_bytes() for file in IDX_FILES}
    files = tuple(server.offer(f"fashion-mnist/{file}", content) for file, content in raw.items())
    change("fashion_mnist", downloads=files)
    (server.folder / "fashion-mnist").mkdir(parents=True)
    (server.folder / files[2].path).write_bytes(raw[IDX_FILES[2]])
    assert same(data.load("fashion_mnist", server.folder), images("fashion_mnist"))
    assert len(server.requests) == 3


@pytest.fixture
def failing(server, change):
    """A function that downloads a file, expects an error and returns its message."""

    def load(file):
        change("mnist", downloads=(file,))
        with pytest.raises(data.DataError) as caught:
            data.load("mnist", server.folder, quiet=True)
        assert left_in(server.folder) == [".mnist.failed"]
        assert str(caught.value).startswith(f"The download of mnist.npz from {server.url}/")
        assert "Try again" in str(caught.value) and "BNN_OFFLINE=1" in str(caught.value)
        return str(caught.value)

    return load


def test_a_wrong_checksum_is_never_used(server, failing):
    message = failing(replace(server.offer("mnist.npz", npz()), sha256="0" * 64))
    assert f"SHA-256 is {hashlib.sha256(npz()).hexdigest()} instead of {'0' * 64}" in message


@pytest.mark.parametrize("how", ["cut", "unmeasured", "stalled"])
def test_a_transfer_that_breaks_off_is_an_error(server, failing, monkeypatch, how):
    monkeypatch.setattr(download, "STALL_SECONDS", 1)
    file = server.offer("mnist.npz", npz(), how)
    expected = f"the server sent only {file.size // 2:,} of its {file.size:,} bytes"
    assert ("timed out" if how == "stalled" else expected) in failing(file)


def test_a_transfer_that_does_not_end_is_an_error(server, failing, monkeypatch):
    file = server.offer("mnist.npz", npz())
    assert "the server sent more of its 1,000 bytes" in failing(replace(file, size=1000))
    monkeypatch.setattr(download, "TOTAL_SECONDS", 0.2)
    server.delay = 2
    assert "not complete after 0.2 s" in failing(file)


@pytest.mark.parametrize("how", ["silent", "refused", "closed", "name look-up"])
def test_without_an_answer_the_stand_in_comes_within_three_seconds(server, default, change, monkeypatch, capsys, how):
    file = server.offer("mnist.npz", npz(), how)
    if how == "closed":
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            file = replace(file, url=f"http://127.0.0.1:{unused.getsockname()[1]}/good/mnist.npz")
    if how == "name look-up":
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: server.over.wait(20) and [])
    change("mnist", downloads=(file,))
    standin._digits()
    start = time.monotonic()
    loaded = data.load("mnist")
    assert time.monotonic() - start < 4
    assert loaded.name == "mnist-5k" and default == server.folder
    reason = {"refused": "Forbidden", "closed": ".*Connection refused"}.get(how, "no answer in 3 s")
    assert re.search(rf"no download is possible \(127.0.0.1: {reason}\)", capsys.readouterr().err)
    assert not server.folder.exists() or left_in(server.folder) in ([], [".mnist.failed"])


def test_without_an_answer_a_folder_that_was_named_is_an_error(server, change):
    change("mnist", downloads=(server.offer("mnist.npz", npz(), "refused"),))
    reason = r"MNIST is not in .*, and no download is possible \(127.0.0.1: Forbidden\). Put there"
    with pytest.raises(data.DataError, match=reason):
        data.load("mnist", server.folder)


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    record = replace(DATASETS["mnist"], downloads=(server.offer("mnist.npz", npz()),))
    (tmp_path / "file").write_text("")
    with pytest.raises(download.Unavailable, match="file/data cannot be written"):
        download.fetch(record, tmp_path / "file" / "data")


# Several processes


@pytest.fixture(scope="module")
def processes():
    # A fork of this process would copy TensorFlow, but not its threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _fetch(record, folder, results, start):
    start.wait(60)
    try:
        download.fetch(record, folder, quiet=True)
        results.put(hashlib.sha256((folder / "mnist.npz").read_bytes()).hexdigest())
    except (data.DataError, download.Unavailable) as error:
        results.put(f"{type(error).__name__}: {error}")


def _outcomes(processes, number, record, folder):
    results, start = processes.Queue(), processes.Barrier(number)
    ranks = [processes.Process(target=_fetch, args=(record, folder, results, start)) for _ in range(number)]
    for rank in ranks:
        rank.start()
    outcomes = [results.get(timeout=60) for _ in ranks]
    for rank in ranks:
        rank.join(10)
    return outcomes


def test_one_process_downloads_and_the_others_wait(server, processes):
    file = server.offer("mnist.npz", npz())
    server.delay = 1
    outcomes = _outcomes(processes, 4, replace(DATASETS["mnist"], downloads=(file,)), server.folder)
    assert outcomes == [file.sha256] * 4
    assert len(server.requests) == 1
    assert left_in(server.folder) == ["mnist.npz"]


def test_those_who_wait_fail_with_the_one_that_failed(server, processes):
    file = replace(server.offer("mnist.npz", npz()), sha256="0" * 64)
    server.delay = 2
    outcomes = _outcomes(processes, 3, replace(DATASETS["mnist"], downloads=(file,)), server.folder)
    assert all(outcome.startswith("DataError: The download of mnist.npz") for outcome in outcomes)
    assert len(server.requests) == 1 and left_in(server.folder) == [".mnist.failed"]
    with pytest.raises(data.DataError, match="The download of mnist.npz"):  # one that comes later tries again
        download.fetch(replace(DATASETS["mnist"], downloads=(file,)), server.folder)
    assert len(server.requests) == 2
    download.fetch(replace(DATASETS["mnist"], downloads=(server.offer("mnist.npz", npz()),)), server.folder)
    assert left_in(server.folder) == ["mnist.npz"]


def test_a_killed_process_holds_up_nobody(server, processes, change):
    change("mnist", downloads=(server.offer("mnist.npz", npz()),))
    server.delay = 20
    results, at_once = processes.Queue(), processes.Barrier(1)
    killed = processes.Process(target=_fetch, args=(DATASETS["mnist"], server.folder, results, at_once))
    killed.start()
    end = time.monotonic() + 30
    while not (server.folder.exists() and list(server.folder.glob(".mnist.npz.*.part"))):
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join(10)
    (part,) = server.folder.glob(".mnist.npz.*.part")
    assert (server.folder / files.NAME).read_text().startswith(f"process {killed.pid} on ")
    os.utime(part, (1, 1))
    server.delay = 0
    start = time.monotonic()
    assert same(data.load("mnist", server.folder), images("mnist"))
    assert time.monotonic() - start < 3
    assert left_in(server.folder) == ["mnist.npz"]  # the old part was removed too


def test_waiting_has_a_limit(server, monkeypatch):
    record = replace(DATASETS["mnist"], downloads=(server.offer("mnist.npz", npz()),))
    monkeypatch.setattr(download, "TOTAL_SECONDS", 0.3)
    holding = "import sys, helpers.files as f\nwith f.held(sys.argv[1]): print(1, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", holding, server.folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as holder:
        holder.stdout.readline()
        with pytest.raises(data.DataError, match=rf"for 0.3 s \(.*process {holder.pid} on .*BNN_OFFLINE=1"):
            download.fetch(record, server.folder)
    assert server.requests == []
