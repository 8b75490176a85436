"""That the benchmark runs, on a few steps of the smallest model; what it finds is not for a test to judge."""

import subprocess
import sys

from helpers import ROOT

import pandas as pd


def test_the_benchmark_times_everything_and_takes_ratios(tmp_path):
    command = [sys.executable, "-m", "tests.bench", "--quick", "--parts", "train,inference", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    times, ratios = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("times", "ratios"))
    assert {"ours", "stock", "twin", "stock in fit", "Python loop"} <= set(times.what)
    assert (times.ms > 0).all() and (times.q1 <= times.q3).all()
    assert {"ours / twin", "stock / ours", "Python loop / ours"} <= set(ratios.ratio)
    assert ratios.met.isna().all()  # a few steps settle no bar
    assert "cores" in done.stdout and str(ROOT) not in (tmp_path / "machine.txt").read_text()
