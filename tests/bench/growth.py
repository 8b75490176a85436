"""How the cost and the memory of inference and training grow: measured, with slopes, and drawn log-log.

A slope of 1 says that twice as much takes twice as long. It is fitted to the larger half of the sizes, because small
sizes cost a constant time for each call.
"""

import sys
from pathlib import Path

from helpers import models, plots
from helpers.fit import stepper
from helpers.inference import sample_outputs
from helpers.layers import DenseFlipout
from helpers.timing import interleaved

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tf_keras as keras

# What grows, and what stays as it is: {(what is measured, what grows): sizes}. A dense network has two hidden layers.
SIZES = {
    ("inference", "draws"): (8, 16, 32, 64, 128, 256, 512),  # of a network of 256 units, 250 inputs
    ("inference", "inputs"): (64, 128, 256, 512, 1024, 2048, 4096),  # 16 draws of 256 units
    ("inference", "units in a layer"): (64, 128, 256, 512, 1024, 2048),  # 8 draws, 128 inputs
    ("training, dense", "batch"): (16, 32, 64, 128, 256, 512, 1024),  # of BNN_FC_flip
    ("training, convolutional", "batch"): (16, 32, 64, 128, 256, 512),  # of BNN_conv_flip
}
QUICK = 2  # sizes of each


def measure(rounds: int, quick: bool) -> list[dict]:
    """Return a row for each size: median and quartiles of the time in ms, and the memory that it adds in MB."""
    rows = []
    for (what, grows), sizes in SIZES.items():
        chosen = sizes[:QUICK] if quick else sizes
        run = {size: _function(what, grows, size) for size in chosen}
        memory = {size: _peak(function) for size, function in run.items()}
        for size, seconds in interleaved(run, rounds).items():
            q1, median, q3 = (round(float(q), 3) for q in np.percentile(seconds, [25, 50, 75]) * 1e3)
            rows.append({"what": what, "over": grows, "size": size, "ms": median, "q1": q1, "q3": q3})
            rows[-1]["mb"] = memory[size]
    return rows


def _function(what, grows, size):
    """A call that does the work of this size."""
    random = np.random.default_rng(0)
    if what == "inference":
        draws, inputs, units = {"draws": (size, 250, 256), "inputs": (16, size, 256)}.get(grows, (8, 128, size))
        layers = [DenseFlipout(units, activation="relu"), DenseFlipout(units, activation="relu"), DenseFlipout(10)]
        model = keras.Sequential([keras.layers.InputLayer((units,)), *layers])
        x = random.random((inputs, units), np.float32)
        return lambda: sample_outputs(model, x, draws)
    model = models.build({"training, dense": "BNN_FC_flip"}.get(what, "BNN_conv_flip"), (28, 28, 1))
    x, y = random.random((size, 28, 28, 1), np.float32), random.integers(0, 10, size).astype(np.int32)
    return stepper(model, x, y, batch_size=size, steps=1)


def _peak(function) -> float | None:
    """The memory in MB by which a second call raises this process above what it held before; None but on Linux."""
    function()
    if not sys.platform.startswith("linux"):
        return None
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark becomes what is held now
    held = _status("VmRSS")
    function()
    return round((_status("VmHWM") - held) / 1024, 1)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def slope(sizes, values) -> float:
    """Return the exponent of growth over the larger half of the sizes; nan where a value is not positive."""
    larger = len(sizes) // 2
    sizes, values = np.asarray(sizes[larger:], float), np.asarray(values[larger:], float)
    if len(sizes) < 2 or not (values > 0).all():
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def report(rows: list[dict], folder: Path) -> list[str]:
    """Draw times and memory over the sizes into growth.png, and return a line for each slope."""
    matplotlib.use("agg")
    plots.use_style()
    lines = []
    fig, axes = plt.subplots(2, len(SIZES), figsize=(3 * len(SIZES), 5.2))
    for (top, bottom), (what, grows) in zip(axes.T, SIZES, strict=True):
        mine = [row for row in rows if (row["what"], row["over"]) == (what, grows)]
        sizes = [row["size"] for row in mine]
        for ax, key, unit in ((top, "ms", "time of a call [ms]"), (bottom, "mb", "memory of a call [MB]")):
            values = [row[key] or np.nan for row in mine]
            grown = slope(sizes, values)
            spread = [(row["ms"] - row["q1"], row["q3"] - row["ms"]) for row in mine] if key == "ms" else None
            ax.errorbar(sizes, values, yerr=np.transpose(spread) if spread else None, fmt="o-")
            ax.set(xscale="log", yscale="log", xlabel=grows, ylabel=unit if what == "inference" else f"{unit}, a step")
            ax.set_title(f"{what}\nslope {grown:.2f}" if np.isfinite(grown) else what)
            lines.append(f"{what}, {unit.split(' [')[0]} over {grows}: slope {grown:.2f}")
    fig.suptitle("How cost and memory grow; a slope of 1 is proportional growth", x=0.01, ha="left")
    fig.savefig(folder / "growth.png")
    plt.close(fig)
    return lines
