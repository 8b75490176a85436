"""What readers give as inputs, as arrays of the shapes and types that a model takes."""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from helpers import data
from helpers.inference.posterior import parts_of
from helpers.inference.settings import from_libraries

import numpy as np
import tensorflow as tf
import tf_keras as keras

# A model with one of these layers takes the codes or the images as they are.
READS_INTEGERS = (
    keras.layers.Rescaling, keras.layers.Normalization, keras.layers.Embedding, keras.layers.IntegerLookup,
    keras.layers.CategoryEncoding, keras.layers.Discretization, keras.layers.Hashing,
)  # fmt: skip
ADVICE = "Pass data.normalise(x) if they are images, or x.astype('float32') if the numbers count as they are."


def inputs_of(model: keras.Model, x: Any) -> Any:
    """Return the inputs as an array [N, ...], or as the structure of arrays that the model takes.

    uint8 is scaled to [0, 1] where it stands for images: four axes, and a model that takes floating-point numbers and
    has no layer in `READS_INTEGERS`. Such a layer, or an `Input` of an integer type, shows that the model reads the
    numbers as they are. Any other uint8 is refused, and so are zeros and ones, because they may be images, codes or
    counts. A warning tells of the scaling if the model has code of the reader's own.

    Args:
      model: a Keras model.
      x: an array, list, DataFrame or tensor; for several inputs a list, tuple or dict of them; or a tf.data.Dataset, a
        keras.utils.Sequence or a generator of batches. From a batch that is a tuple (x, y, ...) only x is taken.

    Raises:
      ValueError: x has no example, another shape than the model's input, or uint8 that may be anything.
    """
    x = _all_batches(x) if _is_batched(x) else x
    for part in tf.nest.flatten(x):
        if isinstance(part, np.ma.MaskedArray):
            raise ValueError("expected numbers, found a masked array, whose mask a model cannot see. Give x.filled(0).")
        if isinstance(part, tf.SparseTensor | tf.RaggedTensor) or hasattr(part, "toarray"):
            raise ValueError(f"expected dense inputs, found {type(part).__name__}. Convert it to an array [N, ...].")
    wanted = _wanted(model)
    x = _arrays(x, wanted)
    if wanted is not None:
        x = _in_structure(x, wanted)
    flat, specs = tf.nest.flatten(x), tf.nest.flatten(wanted) if wanted is not None else None
    sizes = {part.shape[0] if part.ndim else -1 for part in flat}
    if len(sizes) > 1:
        raise ValueError(f"expected inputs of as many examples each, found shapes {[part.shape for part in flat]}")
    found = [
        _checked(model, part, None if specs is None else specs[place], len(flat)) for place, part in enumerate(flat)
    ]
    return tf.nest.pack_sequence_as(x, found)


def _is_batched(x: Any) -> bool:
    if isinstance(x, tf.data.Dataset | keras.utils.Sequence | Iterator):
        return True
    return isinstance(x, Iterable) and not hasattr(x, "__len__") and not hasattr(x, "shape")


def _all_batches(batches: Any) -> Any:
    """Return the inputs of all batches, one after the other."""
    if isinstance(batches, tf.data.Dataset) and batches.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("The dataset never ends, because it repeats. Give one that ends, such as dataset.take(10).")
    if isinstance(batches, keras.utils.Sequence):
        batches = [batches[place] for place in range(len(batches))]
    parts = [batch[0] if isinstance(batch, tuple) else batch for batch in batches]
    if not parts:
        raise ValueError("expected at least one batch of examples, found none: has the generator been used before?")
    parts = [tf.nest.map_structure(np.asarray, part) for part in parts]
    if any(part.ndim == 0 for part in tf.nest.flatten(parts)):
        raise ValueError("expected batches of examples [n, ...], found single numbers. Call dataset.batch(32) first.")
    try:
        return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
    except ValueError as error:
        shapes = sorted({str([part.shape for part in tf.nest.flatten(batch)]) for batch in parts})
        raise ValueError(f"expected batches whose examples have one shape, found {', '.join(shapes)}") from error


def _wanted(model: keras.Model) -> Any:
    """Return the specification of the model's inputs, or None if it takes any."""
    inputs = getattr(model, "_nested_inputs", None) if getattr(model, "inputs", None) else None
    if inputs is None:
        return model.inputs[0] if getattr(model, "inputs", None) and len(model.inputs) == 1 else None
    return inputs[0] if isinstance(inputs, list | tuple) and len(inputs) == 1 else inputs


def _arrays(x: Any, wanted: Any) -> Any:
    """Turn x into one array, or into a list, tuple or dict of arrays."""
    if isinstance(x, dict):
        return {name: np.asarray(part) for name, part in x.items()}
    several = len(tf.nest.flatten(wanted)) > 1 if wanted is not None else False
    parts_are_arrays = isinstance(x, list | tuple) and len(x) and all(hasattr(part, "shape") for part in x)
    if several and isinstance(x, list | tuple):
        return type(x)(np.asarray(part) for part in x)
    if wanted is None and parts_are_arrays and all(len(part.shape) for part in x):
        return type(x)(np.asarray(part) for part in x)
    if parts_are_arrays and len(x) == 1 and wanted is not None and len(x[0].shape) == len(wanted.shape):
        return np.asarray(x[0])
    return np.asarray(x)


def _in_structure(x: Any, wanted: Any) -> Any:
    """Arrange the arrays of x in the structure of the model's inputs."""
    count, names = len(tf.nest.flatten(wanted)), [spec.name for spec in tf.nest.flatten(wanted)]
    if isinstance(x, dict) and not isinstance(wanted, dict):
        names = [name.split(":")[0] for name in names]
        if missing := [name for name in names if name not in x]:
            raise ValueError(f"expected inputs named {names}, found {list(x)}: {missing} are missing")
        return tf.nest.pack_sequence_as(wanted, [x[name] for name in names])
    if isinstance(wanted, dict):
        if not (isinstance(x, dict) and set(wanted) <= set(x)):
            raise ValueError(f"expected a dict of inputs named {list(wanted)}, found {_named(x)}")
        return {name: x[name] for name in wanted}
    if len(tf.nest.flatten(x)) != count:
        some = "one input" if count == 1 else f"{count} inputs"
        raise ValueError(f"expected {some}, because the model has as many, found {_named(x)}")
    return tf.nest.pack_sequence_as(wanted, tf.nest.flatten(x))


def _named(x: Any) -> str:
    return str(list(x)) if isinstance(x, dict) else str([list(part.shape) for part in tf.nest.flatten(x)])


def _checked(model: keras.Model, x: np.ndarray, spec: Any, count: int) -> np.ndarray:
    """Return one input in the type that the model takes."""
    expected = x.shape[1:] if spec is None else spec.shape[1:]
    if spec is not None and x.ndim == len(spec.shape) - 1 and spec.shape[-1] == 1:
        x = x[..., None]  # as Keras does
    fits = x.ndim == len(expected) + 1 and all(a in (None, b) for a, b in zip(expected, x.shape[1:], strict=True))
    if not (x.ndim and fits and len(x)):
        shape = ", ".join(["N"] + [str(size) for size in expected])
        raise ValueError(f"expected x [{shape}] of at least one example, found {list(x.shape)}")
    if x.dtype == object and not isinstance(x.flat[0], str | bytes):
        x = x.astype(np.float64)  # a table of mixed numbers
    if x.dtype.kind in "mMc" and not (spec is not None and tf.as_dtype(spec.dtype).is_complex):
        raise ValueError(f"expected real numbers, found {x.dtype}. Convert x to the numbers that the model needs.")
    if x.dtype.kind in "OUS":
        return x.astype(str).astype(object) if x.dtype.kind != "S" else x
    if x.dtype == np.uint8 and _is_scaled(model, x, spec, count):
        if not from_libraries(model):  # whose code may scale them as well
            warnings.warn(f"uint8 was taken for images and scaled to [0, 1]. {ADVICE}", stacklevel=2)
        x = data.normalise(x)
    return x.astype(_type(model, x, spec, count).as_numpy_dtype, copy=False)


def _is_scaled(model: keras.Model, x: np.ndarray, spec: Any, count: int) -> bool:
    """Tell whether uint8 stands for images, which are scaled; raise a ValueError if it may stand for anything."""
    integers = any(isinstance(part, READS_INTEGERS) for part in parts_of(model))
    if integers or not _type(model, x, spec, count).is_floating:
        return False
    if x.ndim != 4 or x.max() == 1:
        raise ValueError(
            "expected uint8 only for images [N, height, width, channels] with values up to 255, found "
            f"{list(x.shape)} with values up to {x.max()}. {ADVICE}"
        )
    return True


def check_training_inputs(model: keras.Model, x: Any) -> None:
    """Raise a ValueError if training would scale uint8 to [0, 1] where `inputs_of` takes it as it is, or refuses it."""
    some = np.asarray(x[:1000])
    specs = tf.nest.flatten(_wanted(model)) if some.dtype == np.uint8 else []
    if some.dtype == np.uint8 and not _is_scaled(model, some, specs[0] if len(specs) == 1 else None, 1):
        raise ValueError(
            f"fit scales uint8 to [0, 1], but {model.name} has a layer or an Input that reads the numbers as they are. "
            "Give x as another type, such as x.astype('float32')."
        )


def _type(model: keras.Model, x: np.ndarray, spec: Any, count: int) -> tf.DType:
    """Return the type in which the model takes an input."""
    if spec is not None:
        return tf.as_dtype(spec.dtype)
    called = tf.nest.flatten(getattr(model, "_saved_model_inputs_spec", None))
    if len(called) == count and called[0] is not None:
        # What the model was first called with. Keras casts floating-point numbers itself.
        return (
            tf.as_dtype(called[0].dtype)
            if count == 1 and x.dtype.kind != "f"
            else tf.as_dtype(model.dtype or "float32")
        )
    return tf.as_dtype(model.dtype or "float32")
