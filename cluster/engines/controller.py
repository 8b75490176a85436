"""Start, watch and stop the processes of one set of engines: the controller, the launcher and its MPI ranks.

The functions import ipyparallel themselves, so that `import cluster.engines` is quick and works without it.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipyparallel.cluster.launcher import BaseLauncher

_RESTART = "Run `ranks = engines.start()` again, and then the cells that sent data or code to the ranks."
_RESPONSE_SECONDS = 10.0  # limit for the answer of all ranks to `responds`
_POLL_SECONDS = 0.5  # between two checks of the processes
_REPORT_SECONDS = 5.0  # that the launcher of a dead rank has to end and to print the reason
_STOP_SECONDS = 30.0  # limit for ipyparallel to stop the processes
_LOG_SECONDS = 5.0  # between two looks at the controller's log while it does not answer
_PORT_TAKEN = "Address already in use"  # in that log

_loop: asyncio.AbstractEventLoop | None = None


class EngineError(Exception):
    """The engines cannot be started or have stopped. The message says what to do."""

    def _render_traceback_(self) -> list[str]:
        # IPython calls this hook. The traceback shows only ipyparallel's code, which does not help the reader.
        return [f"EngineError: {self}"]


@dataclass
class EngineSet:
    """One controller with its engines.

    Attributes:
      n: number of engines, which is the number of MPI ranks.
      folder: private profile folder with the connection files and logs.
      cluster: ipyparallel's handle of the processes, None before `start`.
      client: connection to the controller, None before `start`.
      failure: why the engines no longer run, valid once `gone` is set.
      gone: set when the engines no longer run.
      stopping: set when `stop` was called.
      stop_lock: held by the thread that stops the processes.
    """

    n: int
    folder: Path
    cluster: Any = None  # ipyparallel.Cluster
    client: Any = None  # ipyparallel.Client
    failure: str = ""
    gone: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)
    stop_lock: threading.Lock = field(default_factory=threading.Lock)


def start(engine_set: EngineSet, deadline: float) -> None:
    """Start the controller and the engines, connect a client, and watch the processes in a thread.

    Args:
      engine_set: the number of engines and their folder. `cluster` and `client` are filled in.
      deadline: value of `time.monotonic()`, in seconds, at which all engines must respond.

    Raises:
      EngineError: a process failed or did not respond in time. The caller has to call `stop`.
    """
    import ipyparallel

    limit = deadline - time.monotonic()
    while True:
        try:
            found = _start_processes(engine_set, deadline)
            break
        except (OSError, RuntimeError, concurrent.futures.TimeoutError, ipyparallel.error.IPythonError) as error:
            # ipyparallel chooses free ports before it opens them, and another program can open one in between.
            if _port_taken(engine_set) and time.monotonic() < deadline:
                _close(engine_set)
                continue
            cluster = engine_set.cluster
            part = "The set of engines" if cluster.engine_set else "The controller"
            late = isinstance(error, (TimeoutError, concurrent.futures.TimeoutError))
            raise EngineError(
                f"{part} did not start: {f'no answer in {limit:.0f} seconds' if late else error}\nIf the limit of "
                f"{limit:.0f} seconds was too short for a busy machine, try engines.start(timeout={2 * limit:.0f}). "
                f"{_end_of_log(cluster.engine_set or cluster.controller)}"
            ) from error
    if found != [(rank, engine_set.n) for rank in range(engine_set.n)]:
        raise EngineError(
            f"The engines should be ranks 0 to {engine_set.n - 1} of {engine_set.n}, but their (rank, size) are "
            f"{found}, because mpi4py was built against a different MPI than the launcher's. "
            "Rebuild mpi4py, or set BNN_LAUNCHER."
        )
    threading.Thread(target=_watch, args=(engine_set,), daemon=True, name="engines-watch").start()


def _start_processes(engine_set: EngineSet, deadline: float) -> list[tuple[int, int]]:
    """Start the controller, the client and the engines. Returns each engine's MPI rank and number of ranks.

    Raises:
      OSError, RuntimeError, TimeoutError or an error of ipyparallel: a process failed or did not answer in time.
    """
    import ipyparallel

    silent, folder = logging.getLogger("cluster.engines"), str(engine_set.folder)
    silent.setLevel(logging.CRITICAL)
    engine_set.cluster = cluster = ipyparallel.Cluster(
        profile_dir=folder, cluster_id=uuid.uuid4().hex[:8], parent=None, log=silent, shutdown_atexit=False
    )

    def remaining() -> float:
        return max(0.1, deadline - time.monotonic())

    def answer(ask: Callable[[float], Any]) -> Any:
        """Return what `ask(seconds)` returns, which is asked again while the processes can still answer."""
        while True:
            seconds = min(_LOG_SECONDS, remaining())
            try:
                return ask(seconds)
            except TimeoutError:
                if seconds < _LOG_SECONDS or _port_taken(engine_set):
                    raise
                if not cluster.controller.running:
                    raise OSError("the controller's process has ended") from None

    _await(cluster.start_controller(), remaining())
    info = _await(cluster.controller.get_connection_info(remaining()), remaining() + 1)

    def connect(seconds: float) -> "ipyparallel.Client":
        return ipyparallel.Client(info["client"], cluster=cluster, profile_dir=folder, timeout=seconds)

    engine_set.client = answer(connect)
    _await(cluster.start_engines(engine_set.n), remaining())
    answer(lambda seconds: engine_set.client.wait_for_engines(engine_set.n, timeout=seconds, interactive=False))
    found = answer(lambda seconds: _ranks(engine_set, seconds))
    if _port_taken(engine_set):
        raise OSError(_PORT_TAKEN)  # one of the controller's queues is missing
    return found


def _port_taken(engine_set: EngineSet) -> bool:
    """Return whether the controller's log says so."""
    process = engine_set.cluster.controller
    if process and process.running:
        # `get_output` would remember what it reads now, and later not see any more.
        return _PORT_TAKEN in Path(process.output_file).read_text(errors="replace")
    return bool(process) and _PORT_TAKEN in process.get_output()


def responds(engine_set: EngineSet) -> bool:
    """Return whether all ranks answer within ten seconds."""
    with contextlib.suppress(Exception):
        return len(_ranks(engine_set, _RESPONSE_SECONDS)) == engine_set.n
    return False


def stop(engine_set: EngineSet) -> None:
    """Stop all processes and remove the folder, also of a set whose start failed halfway."""
    engine_set.failure = engine_set.failure or f"The MPI engines were stopped. {_RESTART}"
    engine_set.gone.set()
    engine_set.stopping.set()
    with engine_set.stop_lock:
        _close(engine_set)
        shutil.rmtree(engine_set.folder, ignore_errors=True)


def _ranks(engine_set: EngineSet, seconds: float) -> list[tuple[int, int]]:
    """Ask each engine for its MPI rank and the number of ranks."""
    view = engine_set.client.direct_view(list(range(engine_set.n)))
    return view.apply_async(_rank_and_size).get(seconds)


def _rank_and_size() -> tuple[int, int]:
    from mpi4py import MPI

    return MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size


def _watch(engine_set: EngineSet) -> None:
    """Wait until a process dies, then stop all others, so that no cell waits for an answer that cannot come."""
    controller, engines = engine_set.cluster.controller, engine_set.cluster.engine_set
    while controller.running and engines.running and len(engine_set.client.ids) == engine_set.n:
        if engine_set.stopping.wait(_POLL_SECONDS):
            return
    # The MPI launcher ends soon after a rank has died, and prints which rank it was and why.
    deadline = time.monotonic() + _REPORT_SECONDS
    while controller.running and engines.running and time.monotonic() < deadline:
        time.sleep(0.1)
    if not controller.running:
        reason = "The controller died, and no engine can be reached without it."
    elif not engines.running:
        reason = f"An MPI engine died, and MPI then ends all {engine_set.n}."
    else:
        reason = f"An MPI engine no longer answers, so all {engine_set.n} were stopped."
    with engine_set.stop_lock:
        if engine_set.stopping.is_set():
            return
        log = _end_of_log(engines if controller.running else controller)
        engine_set.failure = f"{reason} {_RESTART}\n{log}"
        engine_set.gone.set()
        # The controller reports dead engines to the client one by one. If the controller died, nobody else does.
        for number in engine_set.client.ids:
            notice = {"content": {"id": number, "uuid": engine_set.client._engines[number]}}
            engine_set.client._io_loop.add_callback(engine_set.client._unregister_engine, notice)
        _stop_processes(engine_set)
        shutil.rmtree(engine_set.folder, ignore_errors=True)


def _close(engine_set: EngineSet) -> None:
    """Close the client, if there is one, and stop the processes."""
    if engine_set.client:
        engine_set.client.close(linger=0)
    _stop_processes(engine_set)


def _stop_processes(engine_set: EngineSet) -> None:
    """Stop the controller and the engines if they run. The client stays, because a cell may wait for its answer."""
    if engine_set.cluster:
        with contextlib.suppress(Exception):
            _await(engine_set.cluster.stop_cluster(), _STOP_SECONDS)


def _end_of_log(process: "BaseLauncher | None", lines: int = 12) -> str:
    """Return the last lines that the controller, or the engines with their launcher, have written."""
    # ipyparallel's KernelNanny announces each engine, whatever the level of the log is.
    output = [line for line in process.get_output().splitlines() if "[KernelNanny." not in line] if process else []
    return "The end of the log:\n" + ("\n".join(output[-lines:]) or "(nothing)")


def _await(coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
    """Return the coroutine's result. It runs in a loop of its own, because the notebook's loop runs the calling cell.

    Raises:
      concurrent.futures.TimeoutError: the coroutine did not end in time.
    """
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
        threading.Thread(target=_loop.run_forever, daemon=True, name="engines-loop").start()
    return asyncio.run_coroutine_threadsafe(coroutine, _loop).result(seconds)
