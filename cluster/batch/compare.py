"""Draw the results of a sweep against the values that it chose."""

import base64
import io
from collections import Counter
from typing import Any

from cluster.batch import sweep
from cluster.batch.sweep import Result

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by colour-blind readers too
_MARKERS = "osD^vP"
_PANELS = 6
_LOG = 20  # ratio of the largest to the smallest value from which on the axis is logarithmic


def chart(results: list[Result]) -> tuple[str, str]:
    """Draw each result of a sweep against the parameter with most values, with a line for each choice of the others.

    Args:
      results: the outcomes of the runs.

    Returns:
      The chart as a data URI, and its alternative text. Both are "" if there is nothing to compare: fewer than two runs
      report a number of the same name, or no parameter has two values.
    """
    done = [each for each in results if each.ok and each.run.values]
    counts = Counter(name for each in done for name, value in each.results.items() if _is_number(value))
    names = [name for name, count in counts.items() if count > 1][:_PANELS]
    values: dict[str, list] = {}
    for each in done:
        for name, value in each.run.values.items():
            values.setdefault(name, [])
            values[name] += [value] if value not in values[name] else []
    swept = max(values, key=lambda name: len(values[name]), default="")
    if not names or len(values[swept]) < 2:
        return "", ""
    done = [each for each in done if swept in each.run.values]
    text = f"{', '.join(names)} against {swept}, one panel for each result. The table has the numbers."
    return _drawn(done, names, swept, values[swept]), text


def _drawn(done: list[Result], names: list[str], swept: str, values: list) -> str:
    """Return the chart as an SVG in a data URI."""
    from matplotlib.figure import Figure  # takes a third of a second, and most batch runs are no sweeps

    lines: dict[str, list[Result]] = {}
    for each in done:
        lines.setdefault(_line(each, swept), []).append(each)
    numeric = all(_is_number(value) for value in values)
    columns = min(len(names), 3)
    figure = Figure(figsize=(3.4 * columns, 2.9 * -(-len(names) // columns)), layout="constrained")
    for number, name in enumerate(names, start=1):
        ax = figure.add_subplot(-(-len(names) // columns), columns, number)
        for place, (label, runs) in enumerate(lines.items()):
            points = [
                (each.run.values[swept] if numeric else values.index(each.run.values[swept]), each.results[name])
                for each in runs
                if _is_number(each.results.get(name))
            ]
            if numeric:
                points.sort()
            style = {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}
            ax.plot(*zip(*points, strict=True) if points else ([], []), "-" if numeric else "", label=label, **style)
        if numeric and min(values) > 0 and max(values) / min(values) >= _LOG:
            ax.set_xscale("log")
        if not numeric:
            ax.set_xticks(range(len(values)), [sweep.shown(value) for value in values])
        ax.set(xlabel=swept, title=name)
    if len(lines) > 1:
        figure.axes[0].legend(fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()


def _line(result: Result, swept: str) -> str:
    """Return what the runs of one line have in common: the notebook and the other swept values."""
    others = [f"{name} {sweep.shown(value)}" for name, value in result.run.values.items() if name != swept]
    return ", ".join([result.label, *others])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
