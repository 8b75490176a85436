"""Stops ahead of a time limit: on SIGTERM and SIGUSR1 all ranks save the checkpoint of one step, and runs resume."""

import os
import re
import signal
import subprocess
import sys
import time

from helpers import ROOT
from helpers.distributed import watchdog
from helpers.files import read_csv

import numpy as np
import pytest
import tensorflow as tf

from tests.support.training import STEPS, Run, checkpoints, told

GLOO = ("horovodrun", "--gloo", "-n", "2", "-H", "localhost:2", "--network-interface", "lo")


def stopped_at(run, wanted=watchdog.STATUS):
    """The step of whose checkpoint the run tells, which is its last one."""
    status, _, text = run.end(watchdog.LIMIT + 60)
    assert status == wanted, text[-3000:]
    (line,) = told(text)
    assert "--resume" in line
    step = int(re.search(r"told to stop, at step (\d+): its checkpoint is saved", line)[1])
    assert step == max(checkpoints(run.folder)) < STEPS
    return step


@pytest.mark.timeout(900)
def test_two_ranks_save_one_step_and_the_resumed_run_ends_like_an_undisturbed_one(tmp_path, undisturbed):
    """First one rank alone gets the signal, then mpiexec does and hands it on to both."""
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    with Run(tmp_path / "run") as run:
        run.ranks()[1].send_signal(signal.SIGUSR1)
        first = stopped_at(run)
    with Run(tmp_path / "run", "--resume") as run:
        run.ranks()
        run.process.send_signal(signal.SIGUSR1)
        assert stopped_at(run) > first
    with Run(tmp_path / "run", "--resume") as run:
        status, _, text = run.end(280)
        assert status == 0, text[-3000:]
    run, whole = (folder / "BNN_FC_flip" for folder in (tmp_path / "run", undisturbed))
    readers = [tf.train.load_checkpoint(str(folder / "checkpoints")) for folder in (run, whole)]
    names = [name for name in readers[0].get_variable_to_shape_map() if name.startswith(("model", "optimizer"))]
    assert len(names) > 15
    for name in names:
        assert np.array_equal(readers[0].get_tensor(name), readers[1].get_tensor(name)), name
    steps, epochs = read_csv(run / "steps.csv"), read_csv(run / "history.csv")
    assert np.cumsum([row["steps"] for row in steps]).tolist() == [row["step"] for row in steps]
    assert first in [row["step"] for row in steps] and steps[-1]["step"] == STEPS
    # The sums of an epoch are averaged over the ranks at each checkpoint in it, which rounds them once more.
    losses = [[row["loss"] for row in rows] for rows in (epochs, read_csv(whole / "history.csv"))]
    assert len(epochs) > 10 and np.allclose(*losses, rtol=1e-6, atol=0)


@pytest.mark.timeout(400)
def test_horovodrun_hands_on_sigterm_alone_and_a_rank_takes_both(tmp_path):
    """SIGUSR1 would end horovodrun itself; it does not hand a rank's exit status on either."""
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    with Run(tmp_path / "run", launcher=GLOO) as run:
        run.ranks()[1].send_signal(signal.SIGUSR1)
        first = stopped_at(run, wanted=1)
        assert f"Exit code: {watchdog.STATUS}" in run.text()
    with Run(tmp_path / "run", "--resume", launcher=GLOO) as run:
        run.ranks()
        run.process.send_signal(signal.SIGTERM)
        assert stopped_at(run, wanted=1) > first


@pytest.mark.timeout(400)
def test_a_second_signal_ends_ranks_that_cannot_end_a_step(tmp_path):
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    with Run(tmp_path / "run") as run:
        ranks = run.ranks()
        ranks[1].send_signal(signal.SIGSTOP)
        ranks[0].send_signal(signal.SIGUSR1)
        time.sleep(watchdog.REPEAT + 1)
        assert run.process.poll() is None
        ranks[0].send_signal(signal.SIGUSR1)
        status, seconds, text = run.end()
        assert status == 128 + signal.SIGUSR1 and seconds < 15
        (line,) = told(text)
        assert f"rank 1 (process {ranks[1].pid} on " in line and "is stopped" in line and "--resume goes on" in line


def test_a_signal_during_the_first_imports_is_told(tmp_path):
    command = [sys.executable, "-m", "helpers.train", f"--output={tmp_path}"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as run:
        until = time.monotonic() + 20
        caught = 0
        while not caught >> (signal.SIGUSR1 - 1) & 1:
            assert run.poll() is None and time.monotonic() < until
            with open(f"/proc/{run.pid}/status") as status:
                caught = int(re.search(r"SigCgt:\s*(\w+)", status.read())[1], 16)
        run.send_signal(signal.SIGUSR1)
        said = run.communicate(timeout=20)[1]
    assert run.returncode == 128 + signal.SIGUSR1
    (line,) = told(said)
    assert "told to stop by SIGUSR1" in line and line.endswith("It had not begun, so start the same command again.")
    assert not list(tmp_path.iterdir())


# One rank in this process's place: it sends itself a signal between two steps.
ALONE = """
import os, signal, sys, time
from helpers import data, models
from helpers.distributed import watchdog
from helpers.fit import fit
from helpers.runs import Run, advice
import numpy as np

folder, what = sys.argv[1:]
watchdog.listen()
digits = data.load("mnist", quiet=True)

def tell(number):
    os.kill(os.getpid(), number)
    time.sleep(1)

def train(name, callback, resume=False):
    model = models.build("BNN_FC_flip", seed=1)
    fit(model, digits.x_train[:400], digits.y_train[:400], batch_size=16, epochs=2, seed=3, run=Run(
        folder=f"{folder}/{name}", checkpoint_every=10, callback=callback, callback_every=15, resume=resume))
    return model.get_weights()

if what == "outside":
    tell(signal.SIGTERM)
if what == "elastic":
    watchdog.start(0, {0: os.getpid()}, lambda: advice(f"{folder}/run"), elastic=True)
if what == "limit":
    watchdog.LIMIT = 2.0
    train("run", lambda step, model, means: step and (tell(signal.SIGUSR1), time.sleep(20)))
try:
    train("run", lambda step, model, means: step == 15 and tell(signal.SIGUSR1))
except watchdog.Stopped as stop:
    print(stop)
watchdog._wish.clear()
whole, resumed = train("whole", None), train("run", None, resume=True)
print(all(np.array_equal(a, b) for a, b in zip(whole, resumed, strict=True)))
"""


@pytest.mark.parametrize("what", ["step", "outside", "limit", "elastic"])
def test_one_rank_without_horovod(tmp_path, what):
    """In the middle of an epoch of 25 steps, and of a compiled call that was to go from step 15 to step 20."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, tmp_path, what], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "TF_NUM_INTRAOP_THREADS": "1"},
    )  # fmt: skip
    if what == "step":
        first, same = done.stdout.splitlines()
        assert first.startswith("told to stop, at step 16: its checkpoint is saved") and same == "True", done.stderr
        assert done.returncode == 0 and "told" not in done.stderr
        assert 16 in [row["step"] for row in read_csv(tmp_path / "run" / "steps.csv")]
        return
    (line,) = told(done.stderr)
    if what == "outside":
        assert done.returncode == 128 + signal.SIGTERM and "told to stop by SIGTERM" in line, done.stderr
        return
    assert done.returncode == 128 + signal.SIGUSR1, done.stderr
    if what == "elastic":
        assert line.endswith("told to stop by SIGUSR1, as before the end of a job's time. The others go on.")
    else:
        assert "no step and no checkpoint came to an end within 2 seconds" in line
