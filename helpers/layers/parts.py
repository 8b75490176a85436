"""The modules of which a Keras model consists."""

from collections.abc import Mapping
from typing import Any

from helpers import keras2  # noqa: F401, I001  (before TensorFlow)

import tensorflow as tf


def modules_of(model: tf.Module) -> list[tf.Module]:
    """Return a module and all modules in it at any depth, each once: (model, *model.submodules).

    TensorFlow's `submodules` raises an error if any attribute is a dictionary whose keys have no order. A recurrent
    layer with dropout has one after its first call.
    """
    found = {id(model): model}
    _walk(model, found)
    return list(found.values())


def _walk(module: tf.Module, found: dict[int, tf.Module]) -> None:
    """Add the modules in `module` to `found`, in the order of `tf.Module.submodules`."""
    inner = []
    for name, value in sorted(vars(module).items()):
        if name not in module._TF_MODULE_IGNORED_PROPERTIES:
            inner += [leaf for leaf in _leaves(value) if isinstance(leaf, tf.Module) and id(leaf) not in found]
            found |= {id(leaf): leaf for leaf in inner}
    for part in {id(part): part for part in inner}.values():
        _walk(part, found)


def _leaves(value: Any) -> list[Any]:
    """Return the objects in a structure of collections."""
    try:
        return tf.nest.flatten(value)
    except (TypeError, ValueError):  # the keys of a dictionary have no order
        values = (
            [*value.values()] if isinstance(value, Mapping) else [*value] if isinstance(value, list | tuple) else []
        )
        return [leaf for part in values for leaf in _leaves(part)]
