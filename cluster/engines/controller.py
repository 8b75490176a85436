"""One controller with its MPI engines: brought up, watched over, ended."""

import asyncio
import concurrent.futures
import contextlib
import logging
import shutil
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

AGAIN = "Run `ranks = engines.start()` again, and then the cells that gave the ranks what they knew."
_ANSWER = 10.0  # seconds that ranks have to show that they are well
_PAUSE = 0.5  # seconds between looks at the cluster
_LAST_WORDS = 5.0  # seconds that the launcher of a dead rank has to end and to say why

_loop = None


class EngineError(Exception):
    """The engines could not be started, or are gone. The message says what to do."""

    def _render_traceback_(self):
        # IPython's hook: the way here through ipyparallel tells a reader nothing.
        return [f"EngineError: {self}"]


@dataclass
class Running:
    """`n` engines, whose files lie in `folder`. `lost` says what became of them, once `gone` is set."""

    n: int
    folder: Path
    cluster: object = None
    client: object = None
    ranks: object = None
    lost: str = ""
    gone: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)
    ending: threading.Lock = field(default_factory=threading.Lock)


def bring_up(running, deadline):
    """Start controller and engines, connect `running.ranks` to them, and watch over them.

    Raises:
      EngineError: something failed, or is not there at `deadline` (of time.monotonic).
    """
    from cluster.engines.view import Ranks, activate

    import ipyparallel

    limit = deadline - time.monotonic()
    quiet = logging.getLogger("cluster.running")
    quiet.setLevel(logging.CRITICAL)
    running.cluster = cluster = ipyparallel.Cluster(
        profile_dir=str(running.folder),
        cluster_id=uuid.uuid4().hex[:8],
        parent=None,
        log=quiet,
        shutdown_atexit=False,
    )

    def left():
        return max(0.1, deadline - time.monotonic())

    what = "The controller"
    try:
        _await(cluster.start_controller(), left())
        info = _await(cluster.controller.get_connection_info(left()), left() + 1)
        running.client = ipyparallel.Client(
            info["client"], cluster=cluster, profile_dir=str(running.folder), timeout=left()
        )
        what = f"The {running.n} engines"
        _await(cluster.start_engines(running.n), left())
        running.client.wait_for_engines(running.n, timeout=left(), interactive=False)
        running.ranks = Ranks(running)
        places = running.ranks.apply_async(_place).get(left())
    except (OSError, RuntimeError, concurrent.futures.TimeoutError, ipyparallel.error.IPythonError) as error:
        raise EngineError(
            f"{what} did not come up: {error}\nThe limit was {limit:.0f} seconds; on a busy machine try "
            f"engines.start(timeout={2 * limit:.0f}). {_log(cluster.engine_set or cluster.controller)}"
        ) from error
    if places != [(rank, running.n) for rank in range(running.n)]:
        raise EngineError(
            f"{running.n} engines should be ranks 0 to {running.n - 1}; their (rank, size) are {places}. "
            "mpi4py was built against another MPI than the launcher's: rebuild it, or set BNN_LAUNCHER."
        )
    activate(running)
    threading.Thread(target=_watch, args=(running,), daemon=True, name="engines-watch").start()


def _place():
    """This engine's rank and the number of ranks, as MPI has them."""
    from mpi4py import MPI

    return MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size


def well(running):
    """Whether all ranks answer in time."""
    with contextlib.suppress(Exception):
        return len(running.ranks.apply_async(_place).get(_ANSWER)) == running.n
    return False


def _watch(running):
    """Until the engines are stopped: if any part dies, end the rest, and every cell that waits for it."""
    controller, launched = running.cluster.controller, running.cluster.engine_set
    while controller.running and launched.running and len(running.client.ids) == running.n:
        if running.closing.wait(_PAUSE):
            return
    # With MPI the launcher ends soon after a rank; what it prints then says which one, and why.
    until = time.monotonic() + _LAST_WORDS
    while controller.running and launched.running and time.monotonic() < until:
        time.sleep(0.1)
    what = "An MPI engine died or no longer answers"
    if not controller.running:
        what = "The engines' controller died"
    elif not launched.running:
        what = "An MPI engine died"
    with running.ending:
        if running.closing.is_set():
            return
        running.lost = (
            f"{what}, and with MPI the whole set of {running.n} goes with it. {AGAIN}\n"
            f"{_log(launched if controller.running else controller)}"
        )
        running.gone.set()
        # The hub's own notices do this engine by engine; if the hub is what died, nobody else would.
        for number in running.client.ids:
            notice = {"content": {"id": number, "uuid": running.client._engines[number]}}
            running.client._io_loop.add_callback(running.client._unregister_engine, notice)
        _stop_processes(running)


def end(running):
    """Stop all that belongs to `running`, whatever state it is in."""
    running.closing.set()
    with running.ending:
        if running.client:
            running.client.close(linger=0)
        _stop_processes(running)


def _stop_processes(running):
    if running.cluster:
        with contextlib.suppress(Exception):
            _await(running.cluster.stop_cluster(), 30)
    shutil.rmtree(running.folder, ignore_errors=True)


def _log(part, lines=12):
    """The last lines that the controller wrote, or the engines and their launcher."""
    # Each engine's nanny announces itself, whatever the level of the log.
    said = [line for line in part.get_output().splitlines() if "[KernelNanny." not in line] if part else []
    return "The end of the log:\n" + ("\n".join(said[-lines:]) or "(nothing)")


def _await(coroutine, timeout):
    """The coroutine's result, run in a loop of our own: the notebook's is busy with the cell that asks."""
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
        threading.Thread(target=_loop.run_forever, daemon=True, name="engines-loop").start()
    return asyncio.run_coroutine_threadsafe(coroutine, _loop).result(timeout)
