"""Run a job's command on its first node, and leave word of what became of it.

`python -m cluster.jobs.wrapper FOLDER LIMIT STOP COMMAND...` runs COMMAND with its output in FOLDER/output.txt.
FOLDER/began.json says since when and where, FOLDER/ended.json with which status and after which signal: schedulers
forget a job soon after its end, and this machine never knew it. A LIMIT of seconds ends it where no scheduler does; 0
is none.
After STOP seconds COMMAND gets SIGUSR1, so that it can save its work before the end of the job's time; 0 is never.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from cluster import supervise as leash

import psutil

_PAUSE = 0.2  # seconds between looks at the command
_GRACE = 3 * leash.GRACE  # seconds that the command's family has to end


def keep(folder, limit, stop, words):
    """Run `words` to their end; returns their exit status, or 128 and the signal's number if one ended them."""
    told = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
        signal.signal(number, lambda number, frame: told.append(number))
    with open(folder / "output.txt", "ab", buffering=0) as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    if limit and os.getpgrp() != os.getpid():
        # No scheduler holds it, so it must not end with the terminal. A scheduler may know its own by their group.
        os.setsid()
    me = psutil.Process()
    began = time.time()
    write(folder / "began.json", pid=me.pid, created=me.create_time(), host=socket.gethostname(), time=began)
    child = subprocess.Popen([*leash.command(folder), *words])
    over = asked = False
    while child.poll() is None and not told and not over:
        time.sleep(_PAUSE)
        over = bool(limit) and time.time() - began > limit
        if stop and not asked and time.time() - began > stop:
            asked = True
            child.send_signal(signal.SIGUSR1)
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
    status = child.wait()
    status = status if status >= 0 else 128 - status
    if over or told:
        # What was ended has not done its work, however calmly it took that.
        status = status or 128 + signal.SIGTERM
    write(folder / "ended.json", status=status, signal=told[0] if told else 0, over=over, time=time.time())
    return status


def write(path, **values):
    """Write the values to `path` as JSON, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(values) + "\n")
    os.replace(part, path)


if __name__ == "__main__":
    sys.exit(keep(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]))
