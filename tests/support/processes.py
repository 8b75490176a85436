"""What runs below the test process, for the tests that nothing is left running."""

import contextlib

import psutil


def children():
    """All processes below this one, but for the servers that multiprocessing keeps until its process ends."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if not any("from multiprocessing" in word for word in process.cmdline()):
                found.append(process)
    return found


def assert_gone(processes, seconds=20):
    """No process of the list runs any more after that time."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    left = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert not left, left
