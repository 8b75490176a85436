"""The figures that more than one notebook draws. They draw what they are given; scores come from metrics.py.

Functions draw into the axes passed and return them, so that a notebook composes its own figure and ends it
with `show(fig, alt)`. Colours, type and sizes are in course.mplstyle, which `use_style()` applies.
"""

import base64
import html
import io
from pathlib import Path

from helpers import metrics

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.ticker import LogLocator

GREY = "0.45"


def use_style():
    """Apply the course's matplotlib style to every figure drawn from now on."""
    plt.style.use(Path(__file__).with_name("course.mplstyle"))


def show(fig, alt):
    """Display `fig` as a PNG with the alternative text `alt`, and close it.

    `alt` says in a sentence what the figure shows. It goes into the output's metadata, where an HTML export
    finds it, and is the output's plain-text form. The picture is saved with more pixels than it is shown
    with, to be sharp on fine screens, and asks a dark JupyterLab for a light background.
    """
    alt = " ".join(alt.split())
    if not alt:
        raise ValueError("a figure needs an alternative text: say in a sentence what it shows")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    plt.close(fig)
    picture = base64.b64encode(buffer.getvalue()).decode()
    metadata = {"alt": alt, "width": int(fig.get_figwidth() * 96), "needs_background": "light"}
    display({"image/png": picture, "text/plain": alt}, metadata={"image/png": metadata}, raw=True)


def table(rows, caption=""):
    """Display a list of dicts (one a row, same keys) as an HTML table, with a plain-text fallback.

    Floats get four significant digits; pass a string for any other form. `caption` stands beneath the
    table and is the place for the data's provenance.
    """
    columns = list(rows[0])
    cells = [[_text(row[c]) for c in columns] for row in rows]
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in cells)
    # As wide as it needs, and not as the table: a long caption below a narrow table would be a column of words.
    wide = "width: max-content; max-width: min(40rem, 85vw)"
    note = f'<div style="{wide}">{html.escape(caption)}</div>' if caption else ""
    note = f'<caption style="caption-side: bottom; text-align: left">{note}</caption>' if note else ""
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (columns, *cells)]
    display(
        {
            "text/html": f"<table>{note}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
            "text/plain": "\n".join(lines + [caption] * bool(caption)),
        },
        raw=True,
    )


def learning_curves(histories, keys=("loss", "accuracy"), axes=None):
    """One panel a key, one line a history. histories: {name: list of dicts with "epoch" and the keys}."""
    axes = np.ravel(plt.subplots(1, len(keys))[1] if axes is None else axes)
    for ax, key in zip(axes, keys, strict=True):
        for name, epochs in histories.items():
            ax.plot([e["epoch"] for e in epochs], [e[key] for e in epochs], marker=".", label=name)
        ax.set(xlabel="epoch", ylabel=key.replace("_", " "))
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend()
    return axes


def weight_posteriors(snapshots, prior_scale=1.0, axes=None):
    """Posterior means (left) and standard deviations (right) of each layer's weights as training goes.

    snapshots: {moment: {layer: (means, standard deviations)}}, arrays of any shape, in training order. One
    row a layer, one curve a moment, scaled to its own peak, as their heights differ by orders of magnitude.
    The prior N(0, prior_scale^2) is dashed. `axes`, if given, is [layers, 2].
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


def reliability(p, y, name="", bins=15, ax=None):
    """Reliability diagram of p [N, C], y [N]: accuracy against confidence, the bins' sizes above.

    Error bars are one standard deviation of a bin's accuracy given its examples; the ECE is in the title.
    """
    ax = plt.subplots(figsize=(4, 4.2))[1] if ax is None else ax
    confidence, accuracy, count = metrics.calibration_curve(p, y, bins)
    seen = count > 0
    # The standard deviation of Beta(k + 1, n - k + 1): unlike the binomial error, not zero when n is 1.
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


def images(x, titles=(), columns=10):
    """A grid of images [N, H, W] or [N, H, W, 1 or 3], with a title over each if given. Returns the Axes."""
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


def predictive_density(x, probability, labels, reference=None):
    """Each image beside the density of its true class's probability over the Monte-Carlo draws.

    x [N, H, W, C], probability [S, N] of the true class, labels [N] (names or numbers). The solid line is the
    mean over draws, which is the prediction; `reference` [N], if given, is a deterministic model's
    probability, dotted. After the figure in Sharma and Jennings (2020). Returns the Axes [ceil(N / 2), 4].
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


def entropy_histograms(values, xlabel="predictive entropy (nats)", bins=40, ax=None):
    """Histograms on common bins, as shares of each set's size. values: {name: [N]}; the N may differ."""
    ax = plt.subplots()[1] if ax is None else ax
    grid = np.linspace(0, max(np.max(v) for v in values.values()) * 1.001 + 1e-9, bins + 1)
    for i, (name, v) in enumerate(values.items()):
        share = np.histogram(v, grid)[0] / np.size(v)
        ax.stairs(share, grid, color=f"C{i}", fill=True, alpha=0.2)
        ax.stairs(share, grid, color=f"C{i}", linewidth=1.4, label=name)
    ax.set(xlabel=xlabel, ylabel="share of examples", yscale="log")
    ax.legend()
    return ax


def accuracy_vs_retained(curves, ax=None):
    """Accuracy on the examples kept against the share handed over. curves: {name: (retained, accuracy)}.

    The curves end where 2% of the examples are left.
    """
    ax = plt.subplots()[1] if ax is None else ax
    for name, (retained, accuracy) in curves.items():
        # The accuracy on the last few examples is noise, and would set the scale of the axis.
        enough = retained >= 0.02
        ax.plot(100 * (1 - retained[enough]), 100 * accuracy[enough], label=name)
    ax.set(xlabel="least sure examples handed to a human (%)", ylabel="accuracy on the rest (%)")
    ax.legend()
    return ax


def speedup(ranks, seconds, name="", cores=None, axes=None):
    """Time to train and speed-up over the first entry, against the number of ranks, on log axes.

    ranks [R], seconds [R, repeats]; points are means, bars one standard deviation of the repeats (of their
    ratio, for the speed-up). Ranks beyond `cores` share cores and have open markers. Returns the two Axes;
    pass them again to add a second model.
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


def _text(value):
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def _image(ax, image):
    """Grey images dark on light, as ink on paper; colour images as they are."""
    ax.imshow(np.squeeze(image), cmap="gray_r")
    ax.set_axis_off()
