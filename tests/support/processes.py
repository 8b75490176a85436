"""Find the processes below the test process, and check that none of them is left running."""

import contextlib
from collections.abc import Iterable

import psutil


def children() -> list[psutil.Process]:
    """List all processes below this one, but for the servers that multiprocessing keeps until its process ends."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if not any("from multiprocessing" in word for word in process.cmdline()):
                found.append(process)
    return found


def find(*words: str) -> list[psutil.Process]:
    """List the processes below this one whose command line contains all `words`, without their supervisors."""
    found = []
    for process in children():
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(process.cmdline())
            if all(word in line for word in words) and "cluster.supervise" not in line:
                found.append(process)
    return found


def engine_ranks() -> list[psutil.Process]:
    """List the MPI ranks that are engines, without the launcher that started them."""
    return [process for process in find("ipyparallel.engine", "--mpi") if "-n" not in process.cmdline()]


def assert_gone(processes: Iterable[psutil.Process], seconds: float = 20) -> None:
    """Fail if one of the processes still runs after `seconds`."""
    _, alive = psutil.wait_procs(list(processes), timeout=seconds)
    left = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert not left, left
