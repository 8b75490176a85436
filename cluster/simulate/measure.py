"""Time all-reduces, messages and sums on the ranks of this launch.

    mpiexec -n 2 python -m cluster.simulate.measure --sizes 1024 1048576

prints one line of CSV for each measurement: what was timed, bytes, repeats, and the lower quartile, median and upper
quartile in seconds. A message is timed there and back, and half of that is printed. All ranks must be on one machine,
because they agree on the moment at which a measurement begins by its clock. A measurement lasts from the moment at
which the last rank begins to the moment at which the last rank has ended.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

WHAT = ("allreduce", "message", "sum")
_SPIN_SECONDS = 2e-4  # before the begin, in which a rank no longer sleeps
_FEWEST = 3  # repeats of what takes long
_SHORTEST_SECONDS, _MOST_LOOPS = 4e-3, 100  # a measurement repeats a shorter call, because Python's first one is slow


def timed(comm: Any, call: Callable[[], None], repeats: int, loops: int, margin: float) -> np.ndarray:
    """Return how long a collective call takes, several times.

    Args:
      comm: mpi4py's communicator of all ranks.
      call: the same on all ranks.
      repeats: number of measurements.
      loops: calls in each measurement, one after the other.
      margin: seconds from the agreement on a begin to the begin.

    Returns:
      Seconds, [repeats].
    """
    moments = np.empty((repeats, 2))
    for row in moments:
        begin = comm.bcast(time.monotonic() + margin)
        time.sleep(max(begin - _SPIN_SECONDS - time.monotonic(), 0))
        while time.monotonic() < begin:
            pass
        row[0] = time.monotonic()
        for _ in range(loops):
            call()
        row[1] = time.monotonic()
    latest = np.max(comm.allgather(moments), axis=0)
    return (latest[:, 1] - latest[:, 0]) / loops


def _calls(comm: Any, size: int) -> dict[str, tuple[Callable[[], None], float]]:
    """Return for each of `WHAT` a call, and by which number its time is to be divided."""
    from mpi4py import MPI

    sent, received = np.ones(size // 4, np.float32), np.zeros(size // 4, np.float32)

    def there_and_back() -> None:
        if comm.rank == 0:
            comm.Send(sent, 1)
            comm.Recv(received, 1)
        elif comm.rank == 1:
            comm.Recv(received, 0)
            comm.Send(sent, 0)

    return {
        "allreduce": (lambda: comm.Allreduce(sent, received), 1),
        "message": (there_and_back, 2),
        "sum": (lambda: MPI.SUM.Reduce_local(sent, received), 1),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure on all ranks, and print on rank 0.

    Args:
      arguments: words of the command line, None for `sys.argv`.
    """
    parser = argparse.ArgumentParser(prog="python -m cluster.simulate.measure", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", required=True, help="bytes of an all-reduce, a multiple of 4")
    parser.add_argument("--what", nargs="+", default=WHAT, choices=WHAT, help="what is timed")
    parser.add_argument("--repeats", type=int, default=7, help="number of measurements of each size")
    parser.add_argument("--seconds", type=float, default=1.0, help="fewer measurements where they would take longer")
    parser.add_argument("--margin", type=float, default=0.02, help="seconds from the agreement on a begin to the begin")
    options = parser.parse_args(arguments)
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    # Other work on these cores would be measured too. Ranks that share a core then take turns while they wait.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    for size in sorted(options.sizes, reverse=True):  # the first, long messages open the windows of TCP
        for what in options.what:
            call, parts = _calls(comm, size)[what]
            first = comm.bcast(timed(comm, call, 1, 1, options.margin)[0])
            repeats = int(np.clip(options.seconds / first, _FEWEST, options.repeats))
            loops = int(np.clip(_SHORTEST_SECONDS / first, 1, _MOST_LOOPS))
            times = timed(comm, call, repeats, loops, options.margin) / parts
            if comm.rank == 0:
                quartiles = ",".join(f"{value:.9f}" for value in np.quantile(times, [0.25, 0.5, 0.75]))
                print(f"{what},{size},{repeats},{quartiles}", flush=True)


if __name__ == "__main__":
    main()
