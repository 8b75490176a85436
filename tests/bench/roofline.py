"""A roofline of this machine (Williams, Waterman and Patterson 2009): what limits the draws of Monte Carlo inference.

The roof is the lower of two measured lines: the rate of a large matrix product, and the rate at which memory is read
and written times the arithmetic intensity. The intensity of a model is its number of operations over the bytes that it
must move at least. A point far below the roof is limited by something else, such as the cost of starting operations.
"""

from pathlib import Path

from helpers import plots
from helpers.inference import sample_outputs
from helpers.timing import interleaved

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf


def measure(builders: dict, rounds: int, quick: bool) -> list[dict]:
    """Return rows of the two roofs and of inference by each model and its twin.

    Args:
      builders: {name: (BNN, twin, images [N, ...], draws)}.
      rounds: timed calls of each.
      quick: whether the roofs are measured on small arrays, which fit in caches and settle nothing.
    """
    side, size = (256, 2**20) if quick else (3072, 2**26)
    a, stream = tf.random.normal([side, side]), tf.Variable(tf.zeros([size]))

    @tf.function(jit_compile=True)
    def add() -> None:
        stream.assign(stream + 1.0)  # reads and writes each number once; XLA makes one loop of it

    product = tf.function(lambda: tf.matmul(a, a)[0, 0])
    run, work = (
        {"matrix product": product, "memory": add},
        {"matrix product": (2 * side**3, 0), "memory": (0, 8 * size)},
    )
    for name, (model, twin, x, draws) in builders.items():
        forward, tensor = tf.function(twin), tf.constant(x)
        run[f"{name}, draws"] = lambda model=model, x=x, draws=draws: sample_outputs(model, x, draws)
        run[f"{name}, forward passes"] = lambda f=forward, t=tensor, n=draws: [f(t) for _ in range(n)]
        work[f"{name}, draws"] = _work(twin, len(x), draws, drawn=True)
        work[f"{name}, forward passes"] = _work(twin, len(x), draws, drawn=False)
    rows = []
    for name, seconds in interleaved(run, rounds).items():
        flops, moved = work[name]
        best = float(np.min(seconds))  # a roof is what the machine can do
        typical = best if name in ("matrix product", "memory") else float(np.median(seconds))
        rows.append({"what": name, "gflops": flops / typical / 1e9, "gbytes": moved / typical / 1e9})
        rows[-1]["intensity"] = flops / moved if flops and moved else float("nan")
    return rows


def _work(twin, inputs: int, draws: int, drawn: bool) -> tuple[float, float]:
    """The operations of the products, and the bytes that move at least: weights, inputs and outputs of the layers."""
    flops = moved = 0.0
    for layer in twin.layers:
        outputs = inputs * float(np.prod(layer.output_shape[1:]))
        moved += 4 * (inputs * float(np.prod(layer.input_shape[1:])) + outputs)
        if layer.weights:
            kernel = float(np.prod(layer.kernel.shape))
            flops += 2 * kernel * outputs / layer.kernel.shape[-1]
            moved += 4 * kernel * (4 if drawn else 1)  # a draw reads mean and width, writes the weight and reads it
    return draws * flops, draws * moved


def report(rows: list[dict], folder: Path) -> list[str]:
    """Draw the roofline into roofline.png, and return a line for each point."""
    matplotlib.use("agg")
    plots.use_style()
    found = {row["what"]: row for row in rows}
    peak, bandwidth = found.pop("matrix product")["gflops"], found.pop("memory")["gbytes"]
    fig, ax = plt.subplots(figsize=(7.5, 4.5))
    x = np.geomspace(0.5, 500, 200)
    ax.plot(x, np.minimum(peak, bandwidth * x), color=plots.GREY)
    ax.text(0.6, bandwidth * 0.8, f"memory, {bandwidth:.0f} GB/s", color=plots.GREY)
    ax.text(x[-1], peak * 1.06, f"matrix product, {peak:.0f} GFLOP/s", color=plots.GREY, ha="right")
    lines = [f"roofs: {peak:.1f} GFLOP/s, {bandwidth:.1f} GB/s"]
    for number, (name, row) in enumerate(found.items()):
        share = row["gflops"] / min(peak, bandwidth * row["intensity"])
        marker = "o" if name.endswith("draws") else "s"
        ax.plot(row["intensity"], row["gflops"], marker, color=f"C{number // 2}", ms=7)
        ax.annotate(name, (row["intensity"], row["gflops"]), xytext=(8, -4), textcoords="offset points", fontsize=9)
        lines.append(f"{name}: {row['gflops']:.1f} GFLOP/s at {row['intensity']:.1f} a byte, {share:.0%} of the roof")
    ax.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="GFLOP/s", xlim=(0.5, 500))
    ax.set_title("Monte Carlo inference under the roofs of this machine")
    fig.savefig(folder / "roofline.png")
    plt.close(fig)
    return lines
