"""The code that two notebooks or more share.

This package imports nothing heavy. It sets the environment variables that TensorFlow reads at its import, so you have
to import it before TensorFlow.
"""

import os
import sys
from pathlib import Path

if "tensorflow" in sys.modules and os.environ.get("TF_USE_LEGACY_KERAS") != "1":
    raise ImportError(
        "TensorFlow was imported before helpers, so it uses Keras 3, which TensorFlow Probability's layers refuse. "
        "Restart Python and import helpers first."
    )

# tfp.layers are Keras 2 layers. TensorFlow 2.16 and later hand out Keras 3 unless this is set.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow leaves oneDNN off on AMD processors, where it speeds up convolutions as much as on Intel's.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# Otherwise TensorFlow takes all of a GPU's memory at its start and leaves none to other processes.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

ROOT = Path(__file__).resolve().parents[1]
RUNS = Path(os.environ.get("BNN_RUNS_DIR") or ROOT / "build" / "runs")
