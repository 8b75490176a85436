"""Where MathJax lies on this machine, which typesets formulas in pages and in the book without a network.

The package sphinx-mathjax-offline holds MathJax 3.2.2 as its authors released it. `tex-svg.js` is complete in one file:
it draws formulas as SVG, so a page opened from disk needs no font, and no second file that a browser might refuse.
"""

from importlib import metadata
from pathlib import Path

SCRIPT = Path(str(metadata.distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline"))).joinpath(
    "static", "mathjax", "tex-svg.js"
)
