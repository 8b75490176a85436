"""Run a job's command on the job's first node, and write down how it ended.

`python -m cluster.jobs.wrapper FOLDER LIMIT STOP COMMAND...` runs COMMAND with its output in FOLDER/output.txt.
FOLDER/began.json says when and where it began, and FOLDER/ended.json with which exit status and after which signal it
ended. A scheduler forgets a job soon after its end, and this machine keeps no record of its own.

After LIMIT seconds the wrapper ends COMMAND, which is for machines without a scheduler; 0 means no limit. After STOP
seconds it sends SIGUSR1 to COMMAND, so that COMMAND can save its work before the job's time is over; 0 means never. It
also passes on a SIGUSR1 that it receives.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from cluster import supervise
from helpers import files

import psutil

_PAUSE = 0.2  # seconds between looks at the command
_GRACE = 3 * supervise.GRACE  # seconds that the command and its children have to end


def run(folder: Path, limit: float, stop: float, words: list[str]) -> int:
    """Run a command until it ends, until the limit, or until a signal asks for the job's end.

    Args:
      folder: The job's folder.
      limit: Seconds after which the command is ended, or 0.
      stop: Seconds after which the command is asked by SIGUSR1 to stop, or 0.
      words: The command and its arguments.

    Returns:
      The command's exit status, or 128 and the signal's number if a signal ended it. It is never 0 for a command that
      was ended from outside.
    """
    ends: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
        signal.signal(number, lambda number, frame: ends.append(number))
    stops: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: stops.append(number))
    with open(folder / "output.txt", "ab", buffering=0) as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    if limit and os.getpgrp() != os.getpid():
        # Without a scheduler, the job must not end with the terminal. A scheduler may know it by the process group.
        os.setsid()
    process = psutil.Process()
    began = time.time()
    word = {"pid": process.pid, "created": process.create_time(), "host": socket.gethostname(), "time": began}
    files.write(folder / "began.json", f"{json.dumps(word)}\n")
    child = subprocess.Popen([*supervise.command(folder), *words])
    over = False
    while child.poll() is None and not ends and not over:
        time.sleep(_PAUSE)
        seconds = time.time() - began
        over = bool(limit) and seconds > limit
        if stop and seconds > stop:
            stop = 0
            stops.append(signal.SIGUSR1)
        while stops:
            child.send_signal(stops.pop())
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
    status = child.wait()
    status = status if status >= 0 else 128 - status
    if over or ends:
        # A command that was ended has not finished its work, even if its exit status is 0.
        status = status or 128 + signal.SIGTERM
    word = {"status": status, "signal": ends[0] if ends else 0, "over": over, "time": time.time()}
    files.write(folder / "ended.json", f"{json.dumps(word)}\n")
    return status


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]))
