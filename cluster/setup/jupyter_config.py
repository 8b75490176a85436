"""Lets kernels of a Jupyter that has the course's packages, but not the course itself, import from this clone.

pip cannot install the course together with the lock, because a folder has no hash. environment.yml and the containers
name this folder in JUPYTER_CONFIG_PATH.
"""

import os
from pathlib import Path

_clone = str(Path(__file__).resolve().parents[2])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_clone, os.environ.get("PYTHONPATH")]))
