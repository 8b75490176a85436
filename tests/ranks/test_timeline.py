"""A timeline that Horovod wrote on two real ranks."""

import sys

from cluster import engines
from helpers import timeline

import pytest

from tests.support.ranks import mpiexec

pytestmark = pytest.mark.skipif(bool(engines.missing()), reason="; ".join(engines.missing()))


def test_the_steps_of_two_ranks_are_read_also_from_a_file_that_breaks_off(tmp_path):
    path = tmp_path / "timeline.json"
    words = ["-m", "helpers.step_times", "--models=BNN_FC_flip", "--steps=4", "--rounds=3", f"--output={tmp_path}"]
    marks = {"HOROVOD_TIMELINE": str(path), "HOROVOD_TIMELINE_MARK_CYCLES": "1"}
    done = mpiexec(2, sys.executable, *words, timeout=280, **marks)
    assert done.returncode == 0, done.stderr[-3000:]
    steps = timeline.read(path)
    # 4 steps to warm up and 4 in each round. The first one is left out. The gradients and the wish to stop are fused.
    assert [(step.messages, step.tensors) for step in steps] == [(1, 6)] * 15
    for row in timeline.table(steps):
        assert min(row.values()) > 0
        assert sum(row[phase] for phase in timeline.PHASES) == pytest.approx(row["sum"])
    text = path.read_text()
    path.write_text(text[: len(text) * 2 // 3])
    shorter = timeline.read(path)
    assert 5 < len(shorter) < 15 and shorter == steps[: len(shorter)]
