"""The first import of TensorFlow, which prints nothing, and the check that Keras 2 is in force.

A module that uses TensorFlow imports this one before it.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what C++ code writes to file descriptor 2, and print it after all if the block raises.

    TensorFlow reports missing CUDA plugins before any of its log levels takes effect.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            os.write(saved, held_back.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


with quiet_stderr():
    import tensorflow as tf

# TensorFlow warns of retracing although each model is traced only once.
tf.get_logger().setLevel("ERROR")

if os.environ.get("TF_USE_LEGACY_KERAS") not in ("1", "true", "True"):
    raise ImportError(
        "TF_USE_LEGACY_KERAS is off, so TensorFlow uses Keras 3, but TensorFlow Probability's layers need Keras 2. "
        "Unset TF_USE_LEGACY_KERAS, or set it to 1, and restart Python."
    )
