"""Figures of predictions: images, densities over the draws, calibration, uncertainty. `metrics` gives the scores."""

from collections.abc import Mapping, Sequence

from helpers import metrics
from helpers.plots.display import GREY

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike


def images(x: np.ndarray, titles: Sequence[object] = (), columns: int = 10) -> np.ndarray:
    """Draw images in a grid.

    Args:
      x: [N, H, W] or [N, H, W, 1 or 3].
      titles: [N], the text above each image. Empty for none.
      columns: The number of images in a row.

    Returns:
      Axes [rows, columns].
    """
    rows = -(-len(x) // columns)
    height = rows * (8 / columns + 0.25 * (len(titles) > 0))
    axes = plt.subplots(rows, columns, figsize=(8, height), squeeze=False)[1]
    for ax in axes.flat:
        ax.set_axis_off()
    for i, image in enumerate(x):
        _image(axes.flat[i], image)
        if len(titles):
            axes.flat[i].set_title(titles[i], loc="center", fontsize=9)
    return axes


def predictive_density(
    x: np.ndarray, probability: np.ndarray, labels: Sequence[object], reference: np.ndarray | None = None
) -> np.ndarray:
    """Draw each image beside the density of the probability of its true class, over the Monte Carlo draws.

    The solid line is the mean over draws, which is the prediction. After the figure of Sharma and Jennings (2020).

    Args:
      x: [N, H, W, C].
      probability: [S, N], of the true class.
      labels: [N], names or numbers.
      reference: [N], the probability that a deterministic model gives, for a dotted line.

    Returns:
      Axes [ceil(N / 2), 4].
    """
    rows = -(-len(x) // 2)
    axes = plt.subplots(rows, 4, figsize=(8, 1.25 * rows), width_ratios=(1, 3, 1, 3), squeeze=False)[1]
    grid = np.linspace(0, 1, 31)
    for i, (left, ax) in enumerate(axes.reshape(-1, 2)):
        left.set_axis_off()
        if i >= len(x):
            ax.set_axis_off()
            continue
        _image(left, x[i])
        left.set_title(f"label {labels[i]}", loc="center", fontsize=9)
        ax.hist(probability[:, i], grid, density=True, color="C5", label="draws")
        ax.axvline(probability[:, i].mean(), color="black", label="mean of the draws")
        if reference is not None:
            ax.axvline(reference[i], color="C1", linestyle=":", linewidth=2.2, label="deterministic twin")
        ax.set(xlim=(-0.02, 1.02), yticks=[])
    for ax in axes[-1, 1::2]:
        ax.set_xlabel("probability of the true class")
    axes[0, 0].figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return axes


def reliability(p: ArrayLike, y: ArrayLike, name: str = "", bins: int = 15, ax: Axes | None = None) -> Axes:
    """Draw a reliability diagram: the accuracy against the confidence, with the number of examples in each bin above.

    Error bars are one standard deviation of a bin's accuracy given its examples. The title has the ECE.

    Args:
      p: [N, C], probabilities.
      y: [N], labels.
      name: A text in front of the ECE.
      bins: The number of bins of equal width.
      ax: Where to draw.
    """
    ax = plt.subplots(figsize=(4, 4.2))[1] if ax is None else ax
    confidence, accuracy, count = metrics.calibration_curve(p, y, bins)
    seen = count > 0
    # The standard deviation of Beta(k + 1, n - k + 1) is not zero when n is 1, unlike the binomial error.
    centre = (np.nan_to_num(accuracy) * count + 1) / (count + 2)
    error = np.sqrt(centre * (1 - centre) / (count + 3))
    ax.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
    ax.vlines(confidence, confidence, accuracy, color="C1", linewidth=5, alpha=0.35, label="gap")
    ax.errorbar(confidence[seen], accuracy[seen], error[seen], fmt="o-", color="C0", label="accuracy")
    ax.set(xlabel="confidence (largest probability)", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03))
    ax.legend(loc="upper left")
    sizes = ax.inset_axes([0, 1.03, 1, 0.2], sharex=ax)
    sizes.bar((np.arange(bins) + 0.5) / bins, count, width=0.9 / bins, color="C0")
    sizes.set(yscale="log", ylabel="count", ylim=(0.5, None))
    sizes.set_title(f"{name}  ECE {metrics.ece(p, y, bins):.3f}".strip())
    sizes.tick_params(labelbottom=False)
    return ax


def entropy_histograms(
    values: Mapping[str, np.ndarray], xlabel: str = "predictive entropy (nats)", bins: int = 40, ax: Axes | None = None
) -> Axes:
    """Draw histograms with common bins, as shares of the size of each set.

    Args:
      values: {name: [N]}. The sizes N may differ.
      xlabel: What the values are, with their unit.
      bins: The number of bins from zero to the largest value.
      ax: Where to draw.
    """
    ax = plt.subplots()[1] if ax is None else ax
    grid = np.linspace(0, max(np.max(v) for v in values.values()) * 1.001 + 1e-9, bins + 1)
    for i, (name, v) in enumerate(values.items()):
        share = np.histogram(v, grid)[0] / np.size(v)
        ax.stairs(share, grid, color=f"C{i}", fill=True, alpha=0.2)
        ax.stairs(share, grid, color=f"C{i}", linewidth=1.4, label=name)
    ax.set(xlabel=xlabel, ylabel="share of examples", yscale="log")
    ax.legend()
    return ax


def accuracy_vs_retained(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], ax: Axes | None = None) -> Axes:
    """Draw the accuracy on the examples that are kept against the share handed over, until 2% of them are left.

    Args:
      curves: {name: (retained, accuracy)}, from `metrics.accuracy_vs_retained`.
      ax: Where to draw.
    """
    ax = plt.subplots()[1] if ax is None else ax
    for name, (retained, accuracy) in curves.items():
        # The accuracy on the last few examples is noise, which would determine the scale of the axis.
        enough = retained >= 0.02
        ax.plot(100 * (1 - retained[enough]), 100 * accuracy[enough], label=name)
    ax.set(xlabel="least sure examples handed to a human (%)", ylabel="accuracy on the rest (%)")
    ax.legend()
    return ax


def _image(ax: Axes, image: np.ndarray) -> None:
    """Draw grey images dark on light, like ink on paper, and colour images as they are."""
    ax.imshow(np.squeeze(image), cmap="gray_r")
    ax.set_axis_off()
