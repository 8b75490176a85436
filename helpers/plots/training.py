"""Figures of training: learning curves, weights as they move away from their prior, and the speed-up by more ranks."""

from collections.abc import Mapping, Sequence

from helpers.plots.display import GREY

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike


def learning_curves(
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    keys: Sequence[str] = ("loss", "accuracy"),
    axes: Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw a panel for each key and a line for each history.

    Args:
      histories: {name: epochs}, each epoch a mapping with "epoch" and the keys.
      keys: What to draw against the epoch.
      axes: One Axes for each key.

    Returns:
      One Axes for each key.
    """
    panels = np.ravel(plt.subplots(1, len(keys))[1] if axes is None else axes)
    for ax, key in zip(panels, keys, strict=True):
        for name, epochs in histories.items():
            ax.plot([e["epoch"] for e in epochs], [e[key] for e in epochs], marker=".", label=name)
        ax.set(xlabel="epoch", ylabel=key.replace("_", " "))
        ax.xaxis.get_major_locator().set_params(integer=True)
    panels[0].legend()
    return panels


def weight_posteriors(
    snapshots: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    prior_scale: float = 1.0,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the posterior means (left) and standard deviations (right) of each layer's weights as training goes on.

    Each layer has a row, and each moment has a curve. A curve is scaled to its own peak, because the heights differ by
    orders of magnitude. The prior N(0, prior_scale^2) is dashed.

    Args:
      snapshots: {moment: {layer: (means, standard deviations)}}, arrays of any shape, in the order of training.
      prior_scale: The standard deviation of the prior.
      axes: [layers, 2] of Axes.

    Returns:
      Axes [layers, 2].
    """
    layers = list(next(iter(snapshots.values())))
    if axes is None:
        axes = plt.subplots(len(layers), 2, figsize=(8, 0.8 + 1.7 * len(layers)), squeeze=False)[1]
    colours = plt.get_cmap("viridis")(np.linspace(0.9, 0, len(snapshots)))
    for row, layer in zip(axes, layers, strict=True):
        drawn = [snapshot[layer] for snapshot in snapshots.values()]
        reach = max(np.quantile(np.abs(means), 0.999) for means, _ in drawn) * 1.1
        scales = np.concatenate([np.ravel(scale) for _, scale in drawn] + [[prior_scale]])
        edges = int(np.clip(np.sqrt(np.size(drawn[0][0])), 20, 80)) + 1
        grids = np.linspace(-reach, reach, edges), np.geomspace(scales.min() / 1.1, scales.max() * 1.1, edges)
        for moment, values, colour in zip(snapshots, drawn, colours, strict=True):
            for ax, grid, value in zip(row, grids, values, strict=True):
                height, _ = np.histogram(value, grid)
                ax.stairs(height / height.max(), grid, color=colour, label=str(moment), linewidth=1.4)
        row[0].plot(grids[0], np.exp(-0.5 * (grids[0] / prior_scale) ** 2), "--", color=GREY, label="prior")
        row[1].axvline(prior_scale, linestyle="--", color=GREY)
        row[1].set_xscale("log")
        row[0].set(title=f"{layer}: posterior means", ylabel="count / its peak")
        row[1].set(title=f"{layer}: standard deviations")
    axes[-1][0].set_xlabel("mean of a weight")
    axes[-1][1].set_xlabel("standard deviation of a weight")
    axes[0][0].figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return axes


def speedup(
    ranks: ArrayLike, seconds: ArrayLike, name: str = "", cores: int | None = None, axes: Sequence[Axes] | None = None
) -> Sequence[Axes]:
    """Draw the time to train and the speed-up over the first entry against the number of ranks, on log axes.

    Points are means, and bars are one standard deviation of the repeats, or of their ratio for the speed-up.

    Args:
      ranks: [R].
      seconds: [R, repeats].
      name: The label in the legend.
      cores: The number of cores of the machine. More ranks than this share cores and have open markers.
      axes: The two Axes that an earlier call returned, to add a second model.

    Returns:
      Two Axes, of the time and of the speed-up.
    """
    axes = plt.subplots(1, 2)[1] if axes is None else axes
    ranks, seconds = np.asarray(ranks), np.asarray(seconds)
    mean, relative = seconds.mean(axis=1), seconds.std(axis=1, ddof=1) / seconds.mean(axis=1)
    ratio = mean[0] / mean
    # Independent relative errors add in quadrature; the first entry's ratio to itself is 1 exactly.
    ratio_error = np.where(np.arange(len(ranks)) > 0, ratio * np.hypot(relative, relative[0]), 0)
    shared = ranks > (cores or np.inf)
    for ax, value, error in zip(axes, (mean, ratio), (relative * mean, ratio_error), strict=True):
        line = ax.errorbar(ranks, value, error, fmt="-", label=name)
        colour = line.lines[0].get_color()
        ax.plot(ranks[~shared], value[~shared], "o", color=colour)
        ax.plot(ranks[shared], value[shared], "o", color=colour, markerfacecolor="white", zorder=3)
        ax.set(xscale="log", yscale="log", xlabel="ranks", xticks=ranks, xticklabels=ranks)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
    axes[0].set_ylabel("time to train (s)")
    axes[1].set_ylabel(f"speed-up over {ranks[0]} rank{'s' if ranks[0] > 1 else ''}")
    if not any(line.get_label() == "ideal" for line in axes[1].lines):
        axes[1].plot(ranks, ranks / ranks[0], "--", color=GREY, linewidth=1, label="ideal")
    axes[1].legend()
    return axes
