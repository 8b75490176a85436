"""Ratios of known times: taken round by round, and judged by the bars of the benchmark."""

import time

from helpers.timing import interleaved, ratio

import numpy as np
import pytest
import tf_keras as keras

from tests.bench import __main__ as bench
from tests.bench import growth, roofline


def test_functions_take_turns_after_a_call_to_warm_up(monkeypatch):
    """The clock moves in the two functions alone, by 1 and by 10 seconds; the first calls take 100 more."""
    now, called = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def function(name, seconds):
        def call():
            now[0] += seconds + 100 * (name not in called)
            called.append(name)

        return call

    found = interleaved({"quick": function("quick", 1.0), "slow": function("slow", 10.0)}, rounds=3)
    assert called == ["quick", "slow"] * 4
    assert {name: seconds.tolist() for name, seconds in found.items()} == {"quick": [1.0] * 3, "slow": [10.0] * 3}


def test_a_ratio_is_taken_round_by_round():
    """The ratio of the medians would be 3."""
    assert ratio([8.0, 2.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx((2.0, 1.5, 5.0))


@pytest.mark.parametrize(
    ("part", "over", "under", "short", "bound"),
    [
        ("train", "ours", "twin", "FC", "<= 2.4"),
        ("inference", "Python loop of stock", "ours", "conv", ">= 4"),
    ],
)
def test_the_benchmark_reports_medians_ratios_and_whether_a_bar_is_met(part, over, under, short, bound):
    sense, bar = bound.split()
    for factor in (0.9, 1.1):
        quotient = factor * float(bar)
        times = {part: {over: [0.001 * quotient, 0.002 * quotient, 0.004 * quotient], under: [0.001, 0.002, 0.004]}}
        rows, ratios = bench.report(times, short, judge=True)
        assert [(row["what"], row["ms"], row["q1"], row["q3"], row["n"]) for row in rows] == [
            (over, pytest.approx(2 * quotient), pytest.approx(1.5 * quotient), pytest.approx(3 * quotient), 3),
            (under, 2, 1.5, 3, 3),
        ]
        (found,) = (row for row in ratios if row["ratio"] == f"{over} / {under}")
        assert (found["median"], found["q1"], found["q3"]) == pytest.approx((quotient,) * 3)
        assert found["bar"] == bound and found["met"] == ("met" if (factor < 1) == (sense == "<=") else "NOT MET")
        _, unjudged = bench.report(times, short, judge=False)
        assert [row["met"] for row in unjudged] == [""] * len(ratios)


def test_the_slope_of_growth_is_that_of_its_larger_half():
    """Time is a constant and a part that grows with the square; a constant hides the power at small sizes only."""
    sizes = [1, 2, 4, 8, 1024, 2048, 4096, 8192]
    assert growth.slope(sizes, [1000 + size**2 for size in sizes]) == pytest.approx(2, abs=1e-3)
    assert np.isnan(growth.slope(sizes, [0.0] * 8))


def test_a_roofline_counts_operations_and_bytes():
    twin = keras.Sequential([keras.layers.InputLayer((6, 6, 1)), keras.layers.Conv2D(5, 3), keras.layers.Flatten()])
    flops, moved = roofline._work(twin, inputs=7, draws=2, drawn=True)
    assert flops == 2 * 7 * (4 * 4 * 5) * (2 * 3 * 3)  # draws, images, outputs, multiplications and additions
    assert moved == 2 * 4 * (7 * (36 + 80) + 7 * (80 + 80) + 45 * 4)
