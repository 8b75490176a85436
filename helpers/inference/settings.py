"""On what the compiled functions of a model depend, besides its variables."""

from types import FunctionType
from typing import Any

from helpers.inference.posterior import LEFT, parts_of

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tensorflow_probability import distributions as tfd

_PLAIN = (bool, int, float, str, np.generic, type(None))


def settings_of(model: keras.Model) -> list:
    """Return the layers of a model with all plain values, and collections of them, that they have as attributes."""
    found: list = []
    for part in (part for part in parts_of(model) if isinstance(part, keras.layers.Layer)):
        found.append(id(part))
        # In order of their names, because a call takes attributes out and puts them back at the end.
        for name, value in sorted(vars(part).items()):
            if name in ("_networks", "_called", *LEFT) or name.startswith(("_self_", "_build_", "_saved_")):
                continue
            values = [*value, *value.values()] if isinstance(value, dict) else value
            if callable(value) or tf.is_tensor(value) or isinstance(value, tf.Variable | tfd.Distribution):
                found.append((name, id(value)))
            elif isinstance(value, np.ndarray):
                found.append((name, value.tobytes()))
            elif isinstance(value, _PLAIN):
                found.append((name, str(value)))
            elif isinstance(values, tuple | list) and all(isinstance(item, _PLAIN) for item in values):
                found.append((name, str(value)))
    return found


def from_libraries(model: keras.Model) -> bool:
    """Tell whether all code of a model is that of Keras, TensorFlow Probability and this package."""
    for part in parts_of(model):
        functions = [
            value for name, value in vars(part).items() if isinstance(value, FunctionType) and name[-3:] != "_fn"
        ]
        own = type(part) is keras.layers.Lambda and not isinstance(part.function, FunctionType)  # such as a partial
        if own or not all(map(_is_library, (type(part), *functions))):
            return False
    return True


def _is_library(code: Any) -> bool:
    return code.__module__.partition(".")[0] in ("tf_keras", "keras", "tensorflow", "tensorflow_probability", "helpers")
