"""The code that two notebooks or more share.

Importing this package prepares TensorFlow: it must be the first import that touches it.
"""

import os
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

if "tensorflow" in sys.modules and os.environ.get("TF_USE_LEGACY_KERAS") != "1":
    raise ImportError("TensorFlow is imported already: import helpers before it, and start Python anew")

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # by which launchers and schedulers ask the training command to stop


def _end_before_start(number, frame):
    told = f"told to stop by {signal.Signals(number).name} before it began"
    os.write(_stderr, f"helpers.train: {told}. Start the same command again.\n".encode())
    os._exit(128 + number)


# While Python looks for the module of `python -m MODULE`, its name stands only in orig_argv. The imports below take
# seconds, in which SIGUSR1 would end the training command without a word.
if sys.argv[:1] == ["-m"] and sys.orig_argv[sys.orig_argv.index("-m") + 1] == "helpers.train":
    _stderr = os.dup(2)  # which `stderr_kept_back` does not touch
    for _number in SIGNALS:
        signal.signal(_number, _end_before_start)

# tfp.layers are Keras 2 layers; TensorFlow 2.16 and later hand out Keras 3 unless told otherwise.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow leaves oneDNN off on AMD processors, where it helps convolutions as much as on Intel's.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# On a GPU, TensorFlow would take all memory at its start and leave none to another process, such as a notebook's.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

ROOT = Path(__file__).resolve().parents[1]
RUNS = Path(os.environ.get("BNN_RUNS_DIR", ROOT / "build" / "runs"))


@contextmanager
def stderr_kept_back():
    """Hold back what C++ writes to descriptor 2, and give it out after all if the block raises.

    TensorFlow complains of absent CUDA plugins before any of its log levels is in force.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


with stderr_kept_back():
    import tensorflow

# Its warnings of retracing count models that were rightly traced once each.
tensorflow.get_logger().setLevel("ERROR")
