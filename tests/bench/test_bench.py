"""That the benchmark runs, on a few steps of the smallest model; what it finds is not for a test to judge."""

import subprocess
import sys

from helpers import ROOT

import pandas as pd

TRAIN = {"ours", "stock", "twin", "IVON"}
TIMES = {("train", what) for name in TRAIN for what in (name, f"{name}, 10 a call")} | {("train", "stock in fit")}
LOOPS = ("Python loop", "Python loop of stock", "tf.function loop", "deterministic forwards")
TIMES |= {("train", "a normal number a weight")}
TIMES |= {("inference", what) for what in ("ours", *LOOPS)}
RATIOS = {
    "ours / twin",
    "IVON / twin",
    "IVON, 10 a call / twin, 10 a call",
    "a normal number a weight / twin",
    "stock / ours",
    "stock in fit / ours",
    "ours, 10 a call / twin, 10 a call",
    "stock, 10 a call / ours, 10 a call",
    "Python loop of stock / ours",
    "Python loop / ours",
    "tf.function loop / ours",
    "ours / deterministic forwards",
}


def test_the_benchmark_times_everything_and_takes_ratios(tmp_path):
    command = [
        sys.executable,
        "-m",
        "tests.bench",
        "--quick",
        "--parts",
        "train,inference,growth,roofline",
        "--output",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr
    times, ratios = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("times", "ratios"))
    assert sorted(zip(times.part, times.what, strict=True)) == sorted(TIMES)
    assert set(times.n) == {2}
    assert sorted(ratios.ratio) == sorted(RATIOS)
    assert ratios.met.isna().all()  # a few steps settle no bar
    growth, roofline = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("growth", "roofline"))
    assert set(growth.groupby(["what", "over"])["size"].count()) == {2} and (growth.ms > 0).all()
    assert list(roofline.what) == ["matrix product", "memory", "FC, draws", "FC, forward passes"]
    assert (roofline[["gflops", "gbytes"]].max(axis=1) > 0).all()
    assert all((tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG" for name in ("growth", "roofline"))
    assert "cores" in done.stdout and str(ROOT) not in (tmp_path / "machine.txt").read_text()
