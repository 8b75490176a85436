"""The training command on two ranks, as the tests of faults, of stops and of elastic runs start it."""

import contextlib
import os
import subprocess
import sys
import time

from helpers import ROOT

import psutil

from tests.support.processes import assert_gone, children

STEPS = 400  # on each of two ranks; a checkpoint after every 100
LIMIT = 30  # seconds from a fault to the end of all ranks


def arguments(folder, *more):
    given = ["--model=BNN_FC_flip", f"--output={folder}", f"--iterations={2 * STEPS}", "--checkpoint_every=100"]
    return [*given, "--num_monte_carlo=2", *more]


def told(text):
    """The lines of the training command itself, without the rank that horovodrun puts before them."""
    return [line[line.index("helpers.train:") :] for line in text.splitlines() if "helpers.train:" in line]


def checkpoints(folder):
    return {int(path.stem.partition("-")[2]) for path in (folder / "BNN_FC_flip" / "checkpoints").glob("step-*.index")}


class Run:
    """The training command on two ranks; leaving the block ends whatever is still there."""

    def __init__(self, folder, *more, launcher=("mpiexec", "-n", "2", "--oversubscribe"), **environment):
        self.folder, self.log = folder, open(folder.parent / f"{folder.name}.log", "w+")
        command = [*launcher, sys.executable, "-m", "helpers.train", *arguments(folder, *more)]
        environment = {**os.environ, **environment, "OMPI_MCA_btl": "^tcp", "OMPI_MCA_odls_base_sigkill_timeout": "5"}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=self.log, stderr=self.log)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in children():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(20)
        self.log.close()

    def text(self):
        self.log.seek(0)
        return self.log.read()

    def ranks(self):
        """The ranks' processes, once a checkpoint has come that was not there: they are in the midst of training."""
        before, deadline = checkpoints(self.folder), time.monotonic() + 280
        while not checkpoints(self.folder) - before:
            assert self.process.poll() is None and time.monotonic() < deadline, self.text()[-3000:]
            time.sleep(0.01)
        found = {}
        for process in children():
            with contextlib.suppress(psutil.Error):
                environment, command = process.environ(), process.cmdline()
                rank = environment.get("OMPI_COMM_WORLD_RANK", environment.get("HOROVOD_RANK"))
                if rank and command[1:3] == ["-m", "helpers.train"] and "mpiexec" not in command[0]:
                    found[int(rank)] = process
        return found

    def end(self, limit=LIMIT):
        """(exit status, seconds that it took, all output) once the run has ended; nothing is left of it."""
        everyone, began = [*children()], time.monotonic()
        status = self.process.wait(limit)
        seconds = time.monotonic() - began
        assert_gone(everyone, 10)
        return status, seconds, self.text()
