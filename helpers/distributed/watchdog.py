"""Ends all ranks, with one line that says why, when one is lost or stands still, or when a signal asks for a stop.

SIGTERM and SIGUSR1 ask for a stop. While the ranks train, `fit` passes the wish to all of them inside the gradients'
all-reduce, so they end the same step, save a checkpoint and exit with STATUS. At any other time, and in elastic jobs,
the rank that gets the signal ends at once.

mpiexec ends the ranks when one of them is killed, but it does not notice a rank that stands still. Horovod's own stall
check runs in a thread of that process, which may stand still too. So each rank watches the others with a thread.
"""

import contextlib
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from helpers.progress import launched_rank

import psutil

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # by which launchers and schedulers ask for a stop
# Horovod's stall check reads these variables; they are set where the user has not set them. A stopped rank is given up
# after the first, and one that does not answer after the second, because rank 0 may evaluate for long.
DEFAULTS = {"HOROVOD_STALL_CHECK_TIME_SECONDS": "60", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "1800"}
TICK = 1.0  # seconds between looks; ticks are counted, so time in which this process is stopped does not count
PAUSE = 0.5  # seconds that a rank stays after its message, so that the others see that it was told
STATUS = 75  # exit status of a run that stopped at a checkpoint: EX_TEMPFAIL of sysexits.h, "try again"
LIMIT = 60.0  # seconds from a signal to the end of the process, because schedulers kill soon after SIGTERM
# Launchers and schedulers may deliver one wish to a rank several times. A signal that comes later than this many
# seconds after the first one is a second wish, and ends the rank at once.
REPEAT = 5.0
SILENT = 20.0  # seconds in which a rank that was stopped and continued leaves it to the others to say why all end


class Stopped(Exception):
    """A signal asked for a stop, and all ranks have ended the same step. The message says what is kept."""


_FATES = {
    "gone": "is gone: killed, perhaps for want of memory, if no line above says otherwise",
    "stopped": "is stopped",
}
_speaking = threading.Lock()
_waiting: list[float] = []  # while this rank waits for the others, the time when it began
# processes: {rank: psutil.Process} of this host, including this process, once the ranks know each other. size: ranks on
# all hosts. stderr: the descriptor for messages, which nothing redirects. usual: seconds of the last wait that ended.
_job: dict[str, Any] = {"rank": launched_rank() or 0, "processes": {}, "size": 1, "elastic": False}
_job |= {"stderr": 2, "usual": 0.0}
_wish: dict[str, Any] = {}  # the first signal that asked for a stop, and the time when it came


def _not_begun() -> str:
    return "It had not begun, so start the same command again"


def listen() -> None:
    """Note signals from now on and, once `start` has named them, watch the other ranks."""
    if "advice" in _job:
        return
    _job.update(advice=_not_begun, stderr=os.dup(2))
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Python's own handlers wait for the end of a call into C++. The pipe is written at once.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: None)
    threading.Thread(target=_run, args=(reader,), daemon=True).start()


def start(rank: int, peers: dict[int, int], advice: Callable[[], str], elastic: bool = False, size: int = 1) -> None:
    """Name the ranks to watch, at the start and after each change of ranks.

    Args:
      rank: the rank of this process.
      peers: {rank: process id} of the ranks on this host, including this one.
      advice: returns a sentence without its full stop that says how to go on after a failure.
      elastic: kill a rank that is stopped, but do not end the job.
      size: number of ranks on all hosts.
    """
    processes = {}
    for peer, pid in peers.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            processes[peer] = psutil.Process(pid)
    _job.update(rank=rank, processes=processes, advice=advice, elastic=elastic, size=size)


@contextlib.contextmanager
def stoppable(wish: Any) -> Iterator[None]:
    """Let signals end training steps early by setting the tf.Variable `wish`, which steps read, to 1.

    After an exception, such as `Stopped`, the process still has the rest of its time for its end.
    """
    _job["wish"] = wish
    if _wish:
        wish.assign(1.0)
    yield
    del _job["wish"]


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Tell the watchdog that the code inside waits for the other ranks."""
    _waiting.append(time.monotonic())
    try:
        yield
    finally:
        if _waiting:
            _job["usual"] = time.monotonic() - _waiting[0]
        _waiting.clear()


def silence() -> None:
    """Print no more messages, because the reason is told already or there is none."""
    _job["told"] = True


def end(cause: str, status: int = 1) -> NoReturn:
    """Print on one rank why all ranks end, and end this process without waiting for the others."""
    # The connections of a killed process break a moment before it counts as gone.
    until = time.monotonic() + PAUSE
    while all(state == "running" for _, state in _states()) and time.monotonic() < until:
        time.sleep(0.05)
    _say(cause)
    _leave(status)


def _leave(status: int) -> NoReturn:
    """End without the functions that are registered for the exit, because Horovod's waits for the other ranks."""
    sys.stdout.flush()
    time.sleep(PAUSE)
    for name, module in list(sys.modules.items()):
        if name.startswith("__autograph_generated_file"):  # TensorFlow's, in the folder for temporary files
            with contextlib.suppress(OSError):
                os.unlink(str(module.__file__))
    os._exit(status)


def _heed(numbers, was_stopped):
    """Pass on the wish to stop, or end this process if no step will do so in time.

    A rank that was stopped does not know whether another rank has given the reason meanwhile, so it prints nothing.
    """
    numbers = [number for number in numbers if number in SIGNALS]
    # horovodrun takes a rank out of an elastic job by SIGTERM, and the others go on. mpiexec sends SIGTERM when a rank
    # is gone, and kills a second later, so no step will end then.
    lost = not _job["elastic"] and any(state == "gone" for _, state in _states())
    wish = None if lost or _job["elastic"] else _job.get("wish")
    if numbers and not _wish:
        _wish.update(number=numbers[0], time=time.monotonic())
        if wish is not None:
            wish.assign(1.0)
    if not _wish:
        return
    age, number = time.monotonic() - _wish["time"], _wish["number"]
    cause = f"told to stop by {signal.Signals(number).name}, as before the end of a job's time"
    if numbers and age > REPEAT:
        cause, number = f"told to stop a second time, by {signal.Signals(numbers[-1]).name}", numbers[-1]
    elif age > LIMIT:
        cause += f", but no step and no checkpoint came to an end within {LIMIT:.0f} seconds"
    elif wish is not None:
        since = _waiting[0] if _waiting else math.inf
        if _job["size"] > len(_job["processes"]) and since < _wish["time"] and age > max(PAUSE, _job["usual"]):
            # mpiexec sends SIGTERM when it has lost a host, and kills a second later.
            _say(f"{cause}, and no step has ended since, so the ranks on another host may be lost")
        return
    if _job["rank"] == 0 or (lost and not was_stopped):
        _say(cause)
    elif not lost:
        alone = _speaks()
        # If the signal went to all ranks, rank 0 says so, and its end makes the launcher end this one.
        time.sleep(4 * PAUSE)
        if alone or not _speaks():
            _say(f"rank {_job['rank']}: {cause}", asked=True)
    _leave(128 + number)


def _run(reader):
    check, shutdown = (float(os.environ.get(name, value)) for name, value in DEFAULTS.items())
    off = os.environ.get("HOROVOD_STALL_CHECK_DISABLE", "0") not in ("", "0")
    stopped = waited = 0
    resumed = -math.inf  # when this process, having been stopped, was continued
    while True:
        began = time.monotonic()
        tick = PAUSE / 4 if _wish else TICK
        numbers = os.read(reader, 64) if select.select([reader], [], [], tick)[0] else b""
        now = time.monotonic()
        resumed = now if now - began > 3 * TICK else resumed
        # mpiexec continues stopped ranks some seconds before it ends them.
        _heed(numbers, was_stopped=now - resumed < SILENT)
        if numbers or off:
            continue
        still = [peer for peer, state in _states() if state == "stopped"] if _speaks() else []
        stopped = (stopped + tick) * bool(still)
        if stopped >= check:
            _say("", f" and has been for {stopped:.0f} seconds ($HOROVOD_STALL_CHECK_TIME_SECONDS): it is killed")
            for peer in still:
                with contextlib.suppress(psutil.NoSuchProcess):
                    _job["processes"][peer].kill()
            if not _job["elastic"]:
                _leave(1)
        waited = (waited + tick) * bool(_waiting)
        # Horovod comes first, because it knows which rank is missing if that rank's thread can still speak.
        if shutdown and waited >= shutdown + check + 5:
            end(f"another rank has not answered for {waited:.0f} seconds ($HOROVOD_STALL_SHUTDOWN_TIME_SECONDS)")


def _state(process):
    """Return "running", "stopped" or "gone"."""
    try:
        status = process.status() if process.is_running() else psutil.STATUS_DEAD
    except psutil.NoSuchProcess:
        status = psutil.STATUS_DEAD
    if status in (psutil.STATUS_DEAD, psutil.STATUS_ZOMBIE):
        return "gone"
    return "stopped" if status == psutil.STATUS_STOPPED else "running"


def _states():
    return [(peer, _state(process)) for peer, process in _job["processes"].items()]


def _speaks():
    """Whether this is the lowest rank that runs on this host, which watches the others and prints the messages."""
    return all(_state(p) != "running" for peer, p in _job["processes"].items() if peer < _job["rank"])


def _say(cause, more="", asked=False):
    """Print why all end, if this rank is the one to do so. A rank that was `asked` to end names only that reason."""
    with _speaking:
        if not (asked or _speaks()) or _job.get("told"):
            return
        lost = [
            f"rank {peer} (process {_job['processes'][peer].pid} on {os.uname().nodename}) {_FATES[state]}"
            for peer, state in _states()
            if state in _FATES and not asked
        ]
        if not lost and _job["rank"] and not asked:
            return  # rank 0 prints it
        _job["told"] = not _job["elastic"]
        line = f"helpers.train: {'; '.join(lost) or cause}{more}."
        advice = "The others go on" if _job["elastic"] else _job.get("advice", _not_begun)()
        os.write(_job["stderr"], f"{line} {advice}.\n".encode())
