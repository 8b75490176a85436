"""A rank's watch over the others and over signals: all end together, and one of them says why.

SIGTERM and SIGUSR1 ask for a stop. While the ranks train, `fit` passes the wish to all of them inside the gradients'
all-reduce, so they end the same step, save a checkpoint and exit with STATUS. At any other time, and in elastic
jobs, the rank ends at once.

mpiexec ends the ranks when one of them is killed, but nobody ends those that wait for one that stands still: Horovod's
own stall check speaks with a thread of that process, which may stand still too.
"""

import contextlib
import math
import os
import select
import signal
import sys
import threading
import time

from helpers.progress import launched_rank
from helpers.runs import saved

import psutil

# Horovod's stall check knows these; they are set where the user has not. A rank that is stopped is given up after the
# first, one that does not answer after the second: rank 0 may evaluate for long while the others wait for it.
DEFAULTS = {"HOROVOD_STALL_CHECK_TIME_SECONDS": "60", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "1800"}
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # by which launchers and schedulers ask for a stop
TICK = 1.0  # seconds between looks; ticks are counted, so that time in which this process is stopped does not count
PAUSE = 0.5  # seconds that who has spoken stays, so that others see that somebody has
STATUS = 75  # of a run that stopped at a checkpoint: EX_TEMPFAIL of sysexits.h, "try again"
LIMIT = 60.0  # seconds from a signal to the end of the process, because schedulers kill soon after SIGTERM
# Launchers and schedulers may deliver one wish to a rank several times. A signal that comes later than this many
# seconds after the first one is a second wish, and ends the rank at once.
REPEAT = 5.0
SILENT = 20.0  # seconds in which a rank that was stopped, and goes on, leaves it to others to say why all end


class PeerLost(RuntimeError):
    """Another rank has ended, or Horovod has given it up."""


class Stopped(Exception):
    """A signal asked for a stop, and all ranks have ended the same step. The message says what is kept."""


_FATES = {
    "gone": "is gone: killed, perhaps for want of memory, if no line above says otherwise",
    "stopped": "is stopped",
}
_told = threading.Lock()
_waiting = []  # one entry while this rank waits for the others
# processes: {rank: psutil.Process} of this host, this process's own among them, once the ranks know each other.
_job = {"rank": launched_rank() or 0, "processes": {}, "folder": None, "elastic": False}
_wish = {}  # the first signal that asked for a stop, and the time when it came


def listen():
    """Begin to note signals and, once `start` has named them, to watch the other ranks."""
    if "listens" in _job:
        return
    _job["listens"] = True
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Python's own handlers wait for the end of a call into C++; what is written to the pipe does not.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: None)
    threading.Thread(target=_run, args=(reader,), daemon=True).start()


def start(rank, peers, folder, elastic=False):
    """Name the ranks to watch, at the start and after each change of ranks.

    Args:
      rank: this process's.
      peers: {rank: process id} of the ranks on this host, this one among them.
      folder: the run's, where its checkpoints are.
      elastic: end what is stopped, but not the job.
    """
    processes = {}
    for peer, pid in peers.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            processes[peer] = psutil.Process(pid)
    _job.update(rank=rank, processes=processes, folder=folder, elastic=elastic)


@contextlib.contextmanager
def stoppable(wish):
    """Around training steps that end early when the tf.Variable `wish` is not 0 on any rank.

    After an exception, such as `Stopped`, signals still do not end this process before its time is over.
    """
    _job["wish"] = wish
    if _wish:
        wish.assign(1.0)
    yield
    del _job["wish"]


@contextlib.contextmanager
def waiting():
    """Around what waits for the other ranks."""
    _waiting.append(True)
    try:
        yield
    finally:
        _waiting.clear()


def hush():
    """Say nothing any more: the reason is told, or there is none."""
    _job["told"] = True


def end(cause, status=1):
    """Say in one line, on one rank, why all end, and end this process without waiting for anyone."""
    _say(cause)
    _leave(status)


def _leave(status):
    """End without the functions that are to run at exit: Horovod's waits for the other ranks."""
    sys.stdout.flush()
    time.sleep(PAUSE)
    for name, module in list(sys.modules.items()):
        if name.startswith("__autograph_generated_file"):  # TensorFlow's in the folder for temporary files
            with contextlib.suppress(OSError):
                os.unlink(module.__file__)
    os._exit(status)


def _heed(numbers, was_stopped):
    """Pass on the wish to stop, or end this process if no step will do so in time.

    A rank that was stopped itself does not know whether another one has told the reason meanwhile, and says nothing.
    """
    numbers = [number for number in numbers if number in SIGNALS]
    # horovodrun ends a rank that it takes out of an elastic job by SIGTERM, and the others are to go on. mpiexec sends
    # SIGTERM when a rank is gone, and kills a second later: no step will end then.
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
        return
    if _job["rank"] == 0 or (lost and not was_stopped):
        _say(cause)
    elif not lost:
        alone = _first()
        # If the signal went to all ranks, rank 0 says so, and its end makes the launcher end this one.
        time.sleep(4 * PAUSE)
        if alone or not _first():
            _say(f"rank {_job['rank']}: {cause}", asked=True)
    _leave(128 + number)


def _run(reader):
    check, shutdown = (float(os.environ.get(name, value)) for name, value in DEFAULTS.items())
    off = os.environ.get("HOROVOD_STALL_CHECK_DISABLE", "0") not in ("", "0")
    stopped = waited = 0
    resumed = -math.inf  # when this process, having been stopped, went on
    while True:
        began = time.monotonic()
        numbers = os.read(reader, 64) if select.select([reader], [], [], TICK)[0] else b""
        now = time.monotonic()
        resumed = now if now - began > 3 * TICK else resumed
        # mpiexec lets stopped ranks go on some seconds before it ends them.
        _heed(numbers, was_stopped=now - resumed < SILENT)
        if numbers:
            continue
        if off:
            continue
        still = [peer for peer, state in _states() if state == "stopped"] if _first() else []
        stopped = (stopped + TICK) * bool(still)
        if stopped >= check:
            _say("", f" and has been for {stopped:.0f} seconds ($HOROVOD_STALL_CHECK_TIME_SECONDS): it is killed")
            for peer in still:
                with contextlib.suppress(psutil.NoSuchProcess):
                    _job["processes"][peer].kill()
            if not _job["elastic"]:
                _leave(1)
        waited = (waited + TICK) * bool(_waiting)
        # Horovod is first: it knows which rank did not come, if that one's thread can still speak.
        if shutdown and waited >= shutdown + check + 5:
            end(f"another rank has not answered for {waited:.0f} seconds ($HOROVOD_STALL_SHUTDOWN_TIME_SECONDS)")


def _state(process):
    """running, stopped or gone."""
    try:
        status = process.status() if process.is_running() else psutil.STATUS_DEAD
    except psutil.NoSuchProcess:
        status = psutil.STATUS_DEAD
    if status in (psutil.STATUS_DEAD, psutil.STATUS_ZOMBIE):
        return "gone"
    return "stopped" if status == psutil.STATUS_STOPPED else "running"


def _states():
    return [(peer, _state(process)) for peer, process in _job["processes"].items()]


def _first():
    """Whether this is the lowest rank that runs on this host: one alone watches over the others, and speaks."""
    return all(_state(p) != "running" for peer, p in _job["processes"].items() if peer < _job["rank"])


def _say(cause, more="", asked=False):
    """Say it if this rank is the one to speak; one that was `asked` to end speaks of nothing but that."""
    with _told:
        if not (asked or _first()) or _job.get("told"):
            return
        lost = [
            f"rank {peer} (process {_job['processes'][peer].pid} on {os.uname().nodename}) {_FATES[state]}"
            for peer, state in _states()
            if state in _FATES and not asked
        ]
        if not lost and _job["rank"] and not asked:
            return  # rank 0 will say it
        _job["told"] = not _job["elastic"]
        steps = [path.rpartition("-")[2] for path in (saved(_job["folder"]) if _job["folder"] else [])]
        advice = f"The same command with --resume goes on from the checkpoint of step {steps[-1]}" if steps else (
            "There is no checkpoint yet: start the same command anew"
        )  # fmt: skip
        line = f"helpers.train: {'; '.join(lost) or cause}{more}."
        os.write(2, f"{line} {'The others go on' if _job['elastic'] else advice}.\n".encode())
