"""A figure of training steps on several ranks: what each of them waits for."""

from collections.abc import Mapping, Sequence

from helpers import timeline

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

_ROOM = 0.035  # of the width of the axes, which a name of a phase needs for each of its letters at least
_COLOURS = dict(zip(timeline.PHASES, ("0.85", "C1", "C3", "C4", "C0", "C2"), strict=True))


def step_phases(steps: Mapping[str, Sequence[timeline.Phase]], ax: Axes | None = None) -> Axes:
    """Draw a bar for each step, from its beginning to its end, in parts that are the phases in the order of time.

    A wide phase bears its name. The legend names all phases.

    Args:
      steps: {name of a step, such as that of a setting: its phases}, from top to bottom; see `timeline.read`.
      ax: The axes to draw into.

    Returns:
      The axes. The caller gives them a title.
    """
    if ax is None:
        ax = plt.subplots(figsize=(7.5, 1.2 + 0.55 * len(steps)))[1]
    longest = max(phases[-1].end - phases[0].begin for phases in steps.values())
    drawn = {}
    for row, phases in enumerate(steps.values()):
        for phase in phases:
            begin, width = 1e3 * (phase.begin - phases[0].begin), 1e3 * (phase.end - phase.begin)
            (drawn[phase.name],) = ax.barh(row, width, 0.7, begin, color=_COLOURS[phase.name])
            if width > 1e3 * longest * _ROOM * len(phase.name) * 0.5:
                dark = phase.name in ("all-reduce", "copy in")
                ax.text(
                    begin + width / 2, row, phase.name, ha="center", va="center", color="white" if dark else "black"
                )
    ax.set(xlabel="time since the beginning of the step (ms)", xlim=(0, 1e3 * longest))
    ax.set_yticks(range(len(steps)), list(steps))
    ax.invert_yaxis()
    ax.grid(False)
    names = [name for name in timeline.PHASES if name in drawn]
    ax.figure.legend([drawn[name] for name in names], names, loc="outside lower center", ncols=len(names))
    return ax
