"""Elastic training under horovodrun: ranks are killed, added, stopped, and the run goes on to its end."""

import re
import signal
import time

from helpers import data
from helpers.files import read_csv
from helpers.train import command as train

import numpy as np
import pytest

from tests.support.training import Run, told

pytestmark = pytest.mark.usefixtures("fresh_flags")
EPOCHS = 20


def set_hosts(folder, *names):
    """What the discovery script answers. All are names of this machine; one on which a rank died is not used again."""
    script = folder / "hosts.sh"
    new = folder / "hosts.new"
    new.write_text("#!/bin/sh\n" + "".join(f"echo {name}:1\n" for name in names))
    new.chmod(0o755)
    new.replace(script)
    return str(script)


def wait_for(run, pattern, limit=280):
    """Wait until the output has the pattern."""
    deadline = time.monotonic() + limit
    while not re.search(pattern, run.text(), re.S):
        assert run.process.poll() is None and time.monotonic() < deadline, run.text()[-3000:]
        time.sleep(0.1)


@pytest.mark.timeout(900)
def test_ranks_are_lost_and_added_and_training_goes_on(tmp_path):
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    script = set_hosts(tmp_path, "localhost", "127.0.0.1")
    launcher = "horovodrun --gloo -np 2 --min-np 1 --max-np 2 --network-interface lo --host-discovery-script".split()
    flags = ["--elastic", f"--epochs={EPOCHS}", "--batch_size=32", "--checkpoint_every=20"]
    with Run(tmp_path / "run", *flags, launcher=(*launcher, script), HOROVOD_STALL_CHECK_TIME_SECONDS="4") as run:
        run.ranks()[1].kill()
        wait_for(run, "elastic: 1 rank\n")
        set_hosts(tmp_path, "localhost", "127.0.0.1", "127.1")
        wait_for(run, "elastic: 1 rank\n.*elastic: 2 ranks\n")
        stopped = run.ranks()[1]
        stopped.send_signal(signal.SIGSTOP)
        status, _, text = run.end(280)
        assert status == 0, text[-3000:]
    assert re.findall(r"elastic: (\d) rank", text) == ["2", "1", "2", "1"]
    assert f"rank 1 (process {stopped.pid} on " in told(text)[-1] and "is stopped" in told(text)[-1]
    assert "BNN_FC_flip on mnist-5k" in text and ", 1 rank:" in text
    rows = read_csv(tmp_path / "run" / "BNN_FC_flip" / "history.csv")
    # Every epoch is there once, and as long as its ranks made it; the last ones had one.
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert rows[-1]["step"] == EPOCHS * (4000 // 32)
    losses = np.array([row["loss"] for row in rows])
    assert losses[-1] < 0.5 * losses[0] and np.mean(np.diff(losses) < 0) > 0.9


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (3, 2)])
def test_what_is_left_of_an_epoch_is_dealt_out_to_the_ranks_there_are(before, after):
    """As `fit` does it after a change of ranks; but for what every epoch drops at its end, nothing is left out."""
    n, size, steps = 400, 16, 5
    places = np.arange(n)

    def seen(ranks, start, stop):
        parts = [data.batches(places, places, batch_size=size, seed=1, epoch=2, rank=r, size=ranks, start_step=start)
                 for r in range(ranks)]  # fmt: skip
        return {int(place) for part in parts for _, batch in list(part)[: stop - start] for place in batch}

    done = seen(before, 0, steps)
    start = steps * size * before // (size * after)
    left = seen(after, start, data.steps_per_epoch(n, size, after))
    assert len(done) == steps * size * before and len(done & left) < size * after
    assert len(done | left) == n // (size * after) * (size * after)


@pytest.mark.parametrize(("flag", "message"), [("--elastic", "horovodrun --gloo"), ("--overwrite", "choose one")])
def test_elastic_needs_its_launcher_and_keeps_its_checkpoints(flag, message, tmp_path, capsys, monkeypatch):
    pytest.importorskip("horovod.tensorflow", reason="needs Horovod: set up without HOROVOD=0")
    if flag == "--overwrite":
        monkeypatch.setenv("HOROVOD_ELASTIC", "1")
    assert train.main(["--elastic", flag, f"--output={tmp_path}"]) == 1
    (line,) = told(capsys.readouterr().err)
    assert message in line
