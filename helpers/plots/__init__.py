"""The figures and tables that two notebooks or more show.

Each function draws into the axes that it is given, or into new ones, and returns them. A notebook composes its figure
from them and ends with `show(fig, alt)`. Colours, fonts and sizes are in course.mplstyle, which `use_style` applies.
"""

from helpers.plots.display import GREY, show, table, title, use_style
from helpers.plots.predictions import accuracy_vs_retained, entropy_histograms, images, predictive_density, reliability
from helpers.plots.steps import step_phases
from helpers.plots.training import learning_curves, speedup, weight_posteriors

__all__ = [
    "GREY",
    "accuracy_vs_retained",
    "entropy_histograms",
    "images",
    "learning_curves",
    "predictive_density",
    "reliability",
    "show",
    "speedup",
    "step_phases",
    "table",
    "title",
    "use_style",
    "weight_posteriors",
]
