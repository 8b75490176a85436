"""Files are written whole, tables come back as they were, and one process at a time holds a folder."""

import contextlib
import errno
import os
import re
import subprocess
import sys
import threading
import time

from helpers import ROOT, files

import pytest

# ---- write, write_csv, read_csv


def test_a_file_is_replaced_with_the_permissions_that_were_asked_for(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("old")
    path.chmod(0o640)
    before = os.umask(0o027)
    try:
        files.write(path, "zwölf\r\n")
        assert path.read_bytes() == "zwölf\r\n".encode() and path.stat().st_mode & 0o777 == 0o640
        files.write(path, "new", mode=0o604)
        assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o604
    finally:
        os.umask(before)
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_full_disk_leaves_the_old_content_and_the_error_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "notes.txt"
    path.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{path}'")) as caught:
        files.write(path, "new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["notes.txt"]


def test_a_table_comes_back_as_it_was(tmp_path):
    rows = [{"step": 1, "loss": 0.1 + 0.2, "word": 'two, "words"'}, {"step": 2, "loss": 1e-30, "word": "line\nbreak"}]
    files.write_csv(tmp_path / "table.csv", rows)
    assert files.read_csv(tmp_path / "table.csv") == rows
    assert (tmp_path / "table.csv").read_text().startswith("step,loss,word\n1,0.30000000000000004,")


def test_a_text_that_looks_like_a_number_stays_a_text(tmp_path):
    """Seven characters of a commit are digits and letters to f. A number is never written in these forms."""
    rows = [{"commit": "12e4567", "value": 1e-07}, {"commit": "0123456", "value": 1e16}]
    files.write_csv(tmp_path / "table.csv", rows)
    assert files.read_csv(tmp_path / "table.csv") == rows


@pytest.mark.parametrize("damage", [b"a,b\n1\n", b"a,b\n1,2,3\n", b"a,b\n1,\xff\n", b'a,b\n1,"' + b"x" * 200_000])
def test_a_damaged_table_is_named(tmp_path, damage):
    path = tmp_path / "table.csv"
    path.write_bytes(damage)
    with pytest.raises(ValueError, match=re.escape(f"{path} is damaged: ")):
        files.read_csv(path)


# ---- held: one host

HOLDER = """
import sys
from helpers import files
host, files.RENEWAL_SECONDS = sys.argv[2], 0.1
if host:
    # Another node, on a file system that keeps locks to one node without an error.
    files.socket.gethostname = lambda: host
    files.fcntl.lockf = lambda *_: None
with files.held(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds tmp_path until its standard input is closed or it is killed."""
    processes = []

    def start(host=""):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, tmp_path, host], cwd=ROOT, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        assert process.stdout.readline() == "held\n", process.stderr.read()
        return process

    yield start
    for process in processes:
        process.kill()
        with process:  # closes the pipes and waits
            pass


@pytest.fixture
def quick(monkeypatch):
    """Shorten all waits; a watch still takes several renewals of HOLDER's mark."""
    for name, seconds in (("RENEWAL_SECONDS", 0.05), ("WATCH_SECONDS", 2.0), ("PAUSE_SECONDS", 0.02)):
        monkeypatch.setattr(files, name, seconds)


def taken(folder):
    """Whether a process other than this one finds the folder in use."""
    code = "import sys; from helpers import files\nwith files.held(sys.argv[1]): pass"
    done = subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 or "BlockingIOError" in done.stderr, done.stderr
    return done.returncode != 0


def test_a_folder_in_use_is_refused_and_free_as_soon_as_its_holder_is_killed(tmp_path, holder, capfd):
    process = holder()
    with pytest.raises(BlockingIOError, match=f"{tmp_path} is in use by .*process {process.pid} on .*wait for its end"):
        files.held(tmp_path).__enter__()
    process.kill()
    process.wait(10)
    assert f"process {process.pid} on" in (tmp_path / files.NAME).read_text()
    with files.held(tmp_path):
        pass
    assert capfd.readouterr().err == ""  # A line would say that the mark is watched.


def test_a_process_holds_a_folder_until_its_last_block_ends(tmp_path):
    folder = tmp_path / "new" / "run"
    with files.held(folder):
        with files.held(str(folder)):
            assert taken(folder)
        assert taken(folder)
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not taken(folder)
    assert (folder / files.NAME).read_text() == ""


def test_threads_share_the_lock(tmp_path):
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with files.held(tmp_path):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(10)
    with files.held(tmp_path):
        leave.set()
        thread.join(10)
        assert taken(tmp_path)
    assert not taken(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads, which is the point
def test_a_forked_child_is_another_process(tmp_path):
    with contextlib.ExitStack() as stack:
        stack.enter_context(files.held(tmp_path))
        child = os.fork()
        if not child:
            status = 1
            with contextlib.suppress(BaseException):
                try:
                    files.held(tmp_path).__enter__()
                except BlockingIOError as error:
                    status = 0 if f"process {os.getppid()} on" in str(error) else 2
                stack.close()
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        mark = subprocess.run(["cat", tmp_path / files.NAME], capture_output=True, text=True).stdout
        assert f"process {os.getpid()} on" in mark
        assert taken(tmp_path)


def test_waiting_ends_with_the_holder_or_at_its_limit(tmp_path, holder):
    process = holder()
    began = time.monotonic()
    with pytest.raises(BlockingIOError, match=f"process {process.pid}"), files.held(tmp_path, wait=0.5):
        pass
    assert time.monotonic() - began >= 0.5
    ender = threading.Timer(0.3, process.stdin.close)
    ender.start()
    with files.held(tmp_path, wait=60):
        assert process.wait(10) == 0
    ender.join()


def test_a_lock_lost_by_closing_the_file_comes_back_with_the_next_renewal(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(files, "RENEWAL_SECONDS", 1.0)
    with files.held(tmp_path):
        (tmp_path / files.NAME).read_text()  # closes a second descriptor, with which the kernel drops the lock
        code = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        command = [sys.executable, "-c", code, tmp_path / files.NAME]
        assert subprocess.run(command, capture_output=True).returncode == 0
        end = time.monotonic() + 20
        while subprocess.run(command, capture_output=True).returncode == 0:
            assert time.monotonic() < end


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"cannot write in {tmp_path}/file .*: give another folder"):
        files.held(tmp_path / "file").__enter__()


def test_a_file_system_without_locks_is_told_and_its_marks_are_watched(tmp_path, quick, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "lockf", refuse)
    with files.held(tmp_path):
        assert "has no locks (Function not implemented)" in capsys.readouterr().err
        # This process would share its own lock, so call what another process would come to.
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on"):
            files._take(tmp_path, 0)
    assert (tmp_path / files.NAME).read_text() == ""


# ---- held: other hosts, on a file system that keeps locks to one node


def test_a_moving_mark_of_another_host_is_a_folder_in_use(tmp_path, holder, quick):
    process = holder("node2")
    with pytest.raises(BlockingIOError, match=f"process {process.pid} on node2"), files.held(tmp_path):
        pass
    ender = threading.Timer(0.3, process.stdin.close)
    ender.start()
    with files.held(tmp_path, wait=60):
        assert process.wait(10) == 0
    ender.join()


def test_a_mark_of_another_host_that_does_not_move_is_that_of_a_killed_run(tmp_path, holder, quick, capsys):
    process = holder("node2")
    process.kill()
    process.wait(10)
    began = time.monotonic()
    with files.held(tmp_path):
        assert time.monotonic() - began >= files.WATCH_SECONDS
    (line,) = capsys.readouterr().err.splitlines()
    assert f"process {process.pid} on node2" in line and "watching it for 2 s" in line


def test_a_run_that_ended_well_keeps_no_other_host_waiting(tmp_path, holder, monkeypatch, capsys):
    monkeypatch.setattr(files, "WATCH_SECONDS", 1000)  # the test's own limit is shorter
    process = holder("node2")
    process.stdin.close()
    assert process.wait(10) == 0
    with files.held(tmp_path):
        assert capsys.readouterr().err == ""
