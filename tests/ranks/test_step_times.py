"""The scaling study's measurements, on real ranks."""

import subprocess
import sys

from cluster import engines, launcher, scaling
from helpers import ROOT
from helpers.files import read_csv

import pytest

pytestmark = [
    pytest.mark.skipif(bool(engines.missing()), reason="; ".join(engines.missing())),
]


def test_a_study_has_a_row_for_each_round_of_each_point(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "SIZES", (1000,))
    monkeypatch.setattr(
        scaling, "SETTINGS", {"every-2": (["--every=2"], {"HOROVOD_CYCLE_TIME": "5"}), "mpi": (["--mpi"], {})}
    )
    small = ["--ranks", "2", "--models", "BNN_FC_flip", "--rounds", "3", "--steps", "2", "--timeout", "100"]
    assert scaling.main([*small, "--global_batch", "64", "--output", str(tmp_path)]) == 0
    rows = [row for file in sorted(tmp_path.glob("*.csv")) for row in read_csv(file)]
    keys = {(row["model"], row["scaling"], row["setting"], row["ranks"], row["batch_size"]) for row in rows}
    assert keys == {
        ("BNN_FC_flip", "weak", "default", 2, 64),
        ("BNN_FC_flip", "strong", "default", 2, 32),
        ("BNN_FC_flip", "weak", "every-2", 2, 64),
        ("all-reduce", "none", "default", 2, 0),
        ("all-reduce", "none", "mpi", 2, 0),
    }
    assert len(rows) == 15 and all(0 < row["step"] < 10 and row["nodes"] == 1 <= row["cores"] for row in rows)
    for row in rows:
        layer = 784 * 64
        expected = 1000 if row["model"] == "all-reduce" else 2 * layer + 64 + 64 * 10 + 10
        assert row["parameters"] == expected and (row["alone"] > 0) == (row["model"] != "all-reduce")
        assert 0 <= row["waiting"] <= row["alone"] / 2 and row["device"]  # the middle of two ranks is their mean


def test_a_point_that_fails_or_takes_too_long_is_named_and_the_rest_go_on(tmp_path, capfd):
    arguments = ["--ranks", "1", "--models", "no_such", "--settings_at", "0", "--output", str(tmp_path)]
    assert scaling.main(arguments) == 1
    assert capfd.readouterr().err.count("there is no model 'no_such'") == 1
    assert "not done within 1 seconds" in scaling.run([sys.executable, "-c", "import time; time.sleep(60)"], {}, 1)
    printed = subprocess.run(
        [sys.executable, "-m", "cluster.scaling", "--ranks", "2", "--dry-run"], cwd=ROOT, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert printed.returncode == 0 and f"{launcher.program()} -n 2" in printed.stdout
    assert "HOROVOD_CYCLE_TIME=20" in printed.stdout and not list(tmp_path.iterdir())
