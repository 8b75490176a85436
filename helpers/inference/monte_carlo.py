"""The Monte Carlo predictive distribution of a posterior over networks, on one rank or split over several.

    p = predict(model, x_test)       # [S, N, C]; a Keras model, or a `Posterior` of helpers.methods
    p.mean(axis=0)                   # the predictive distribution, [N, C]

p(y | x, data) is the mean of p(y | x, w) over the posterior of the weights w (Blundell et al. 2015, section 2). Here
this mean is taken over S independent draws of all weights, and all inputs share each draw. A forward pass of a flipout
layer is no such draw. It gives each example signs of its own (Wen et al. 2018, equation 4), so its outputs for two
inputs are not those of one network.
"""

import math
import operator
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from helpers.distributed import ALONE, World
from helpers.inference.inputs import inputs_of
from helpers.inference.networks import Networks, compile_networks
from helpers.inference.posterior import Posterior
from helpers.progress import bar

import numpy as np
import tensorflow as tf
import tf_keras as keras

MB = 2**20
DRAWS = 32  # at a time; more of them take memory and save no time
PASSES = 8192  # draws times examples in one call, which costs about a millisecond
# Bytes that a block of examples may take. Much larger blocks leave the processor's cache. Smaller ones need more calls,
# which cost most when several threads share each of them. The value was measured on one machine with two cores.
CACHE = 32 * MB


def predict(
    posterior: keras.Model | Posterior,
    x: Any,
    num_draws: int = 300,
    *,
    seed: int = 0,
    world: World = ALONE,
    budget_mb: float = 512,
    progress: bool = False,
) -> np.ndarray:
    """Return the class probabilities of networks drawn from a posterior over models that give logits.

    Args:
      posterior, x, num_draws, seed, world, budget_mb, progress: as `sample_outputs` takes them.

    Returns:
      float32 [S, N, C], the softmax of `sample_outputs` over the last axis.

    Raises:
      ValueError: the model gives one number, or probabilities, in place of logits; or as `sample_outputs` does.
      TypeError, distributed.RankFailure: as `sample_outputs` does.
    """
    logits = sample_outputs(posterior, x, num_draws, seed=seed, world=world, budget_mb=budget_mb, progress=progress)
    if not isinstance(logits, np.ndarray):
        raise TypeError("expected a model whose output is one tensor of logits, found several. Call sample_outputs.")
    if logits.ndim < 3 or logits.shape[-1] < 2 or logits.dtype.kind != "f":
        raise ValueError(
            f"expected logits [N, C] of at least two classes, found {list(logits.shape[1:])} of {logits.dtype}. "
            "Call sample_outputs, which returns the outputs as they are."
        )
    sums, least = logits.sum(axis=-1), logits.min(axis=-1)
    known = np.isfinite(sums)  # a NaN in one example says nothing about the others
    if known.any() and least[known].min() >= 0 and np.allclose(sums[known], 1, atol=1e-3) or _squashes(posterior):
        raise ValueError(
            "expected logits, found outputs that are probabilities already. Call sample_outputs, or leave out the "
            "softmax or sigmoid at the model's end."
        )
    # In place, because the result may take much memory.
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    return logits


def _squashes(posterior: Any) -> bool:
    """Tell whether a model ends with a softmax or a sigmoid. In half precision the sums of a softmax are not exact."""
    outputs = getattr(getattr(posterior, "model", posterior), "outputs", None)
    layer = outputs[0]._keras_history.layer if outputs and hasattr(outputs[0], "_keras_history") else None
    ends = (keras.activations.softmax, keras.activations.sigmoid)
    return isinstance(layer, keras.layers.Softmax) or getattr(layer, "activation", None) in ends


def sample_outputs(
    posterior: keras.Model | Posterior,
    x: Any,
    num_draws: int = 300,
    *,
    seed: int = 0,
    world: World = ALONE,
    budget_mb: float = 512,
    progress: bool = False,
) -> Any:
    """Return the outputs of networks drawn from a posterior, each applied to every input.

    Network s of a Posterior is the model that it yields. Network s of a Keras model is the model's own call with
    training=False while its Bayesian layers, those of `helpers.layers` or tfp.layers at any depth, are fixed to draw s.
    The outputs of an example must not depend on the other examples.

    A model that draws numbers in another way, such as dropout with training=True or weights that are drawn in `call`,
    is called for each draw with random numbers that begin anew at (seed, s). Then each block of examples sees the same
    numbers. Dropout draws a mask for each example, so its draws are no networks that all inputs share. A stateful
    recurrent layer begins each call from its reset state. The call leaves the model as it was.

    Args:
      posterior: a Keras model, or a `Posterior`.
      x: [N, ...], an array, list, tensor or DataFrame; several of them for several inputs; or a tf.data.Dataset or a
        generator of batches. `inputs.inputs_of` says when uint8 is scaled to [0, 1].
      num_draws: S, at least 1. A Posterior with fewer members gives as many outputs as it has members.
      seed: draw s depends on the seed and on s alone, not on the budget, on x or on the number of ranks.
      world: the ranks that share the draws. Every rank calls with the same arguments and gets the whole result.
        With `ALONE` this process computes all draws.
      budget_mb: a limit, in MB of 2^20 bytes, to the memory that is taken besides x and the result. One draw of one
        example may exceed it.
      progress: show a bar on rank 0.

    Returns:
      [S, N, K], in at least float32; [1, N, K] if nothing in the model is random. If the model has several outputs, a
      structure of such arrays. An output that is a distribution counts as the tensor that its layer makes of it.

    Raises:
      ValueError: there are no draws or no examples, or x has another shape than the model's input.
      TypeError: `posterior` is neither of these, num_draws is no whole number, or an output of the model is no tensor.
      distributed.RankFailure: another rank has failed.
    """
    try:
        outputs = _outputs_of_rank(posterior, x, num_draws, seed, int(budget_mb * MB), world, progress)
    except Exception as failure:
        world.agree(failure)  # which raises it
    world.agree(None)
    # Only one rank, whichever it is, has an output of a deterministic model.
    return tf.nest.map_structure(world.gather, outputs)


def _outputs_of_rank(
    posterior: Any, x: Any, num_draws: int, seed: int, budget: int, world: World, progress: bool
) -> Any:
    """Return the outputs of this rank's draws, [S_rank, N, K], within `budget` bytes."""
    num_draws = operator.index(num_draws)
    if num_draws < 1:
        raise ValueError(f"expected at least 1 draw, found num_draws={num_draws}")
    single = not isinstance(posterior, keras.Model)  # it yields one network at a time
    num_draws = min(num_draws, _members(posterior) or num_draws) if single else num_draws
    with _fixed(posterior, seed, world.rank * num_draws // world.size) as model:
        x = inputs_of(model, x)
        if not (compile_networks(model, x, single).random or single):
            num_draws = 1
        compiled = [model]
    begin, end = (part * num_draws // world.size for part in (world.rank, world.rank + 1))
    n, first, outputs = len(tf.nest.flatten(x)[0]), begin, None
    with bar(total=(end - begin) * n, desc="forward passes", disable=not progress) as ticker:
        # A rank without a draw computes one output, but keeps only its shape.
        while first < max(end, begin + 1):
            with _fixed(posterior, seed, first) as model:
                networks = compile_networks(model, x, single, any(model is known for known in compiled))
                compiled.append(model)
                at_once, rows, block = _chunks(networks, n, 1 if single else end - begin, budget)
                if size := _batch_size(model):
                    rows, block = math.ceil(rows / size) * size, size
                count = min(at_once, end - first) or 1
                for start, found in _parts(networks, x, rows, block, (seed, first, count)):
                    if outputs is None:  # this part tells the shape
                        _check_outputs(found, count, min(rows, n))
                        shaped = lambda a: np.empty([end - begin, n, *a.shape[2:]], a.dtype)  # noqa: E731
                        outputs = tf.nest.map_structure(shaped, found)
                    for whole, some in zip(tf.nest.flatten(outputs), tf.nest.flatten(found), strict=True):
                        if some.shape[2:] != whole.shape[2:]:
                            raise ValueError(
                                f"expected networks with outputs of one shape, found {list(some.shape[2:])} after "
                                f"{list(whole.shape[2:])}. Give an ensemble members with the same outputs."
                            )
                        whole[first - begin : first - begin + count, start : start + rows] = some[: end - first]
                    ticker.update(count * min(rows, n - start))
            first += count
    return outputs


def _parts(networks: Networks, x: Any, rows: int, block: int, draws: tuple[int, int, int]) -> Iterator[tuple[int, Any]]:
    """Yield (number of the first example, outputs [S, n, ...]) for at most `rows` examples at a time."""
    weights = networks.weights(*draws)
    for start in range(0, len(tf.nest.flatten(x)[0]), rows):
        part = tf.nest.map_structure(lambda array, start=start: tf.constant(array[start : start + rows]), x)
        found = networks.outputs(part, weights, block, draws)
        yield start, tf.nest.map_structure(lambda tensor: tensor.numpy(), found)


def _members(posterior: Any) -> int | None:
    """Return the number of networks of a Posterior, None if they do not run out."""
    if not isinstance(posterior, Posterior):
        raise TypeError(
            f"expected a Keras model or a posterior with `members` and `fixed`, found {type(posterior).__name__}. "
            "Give a model, or what a method of helpers.methods returns."
        )
    if posterior.members is not None and posterior.members < 1:
        raise ValueError(f"expected a posterior with at least 1 member, found members={posterior.members}")
    return posterior.members


@contextmanager
def _fixed(posterior: Any, seed: int, number: int) -> Iterator[keras.Model]:
    """Yield a Keras model as it is, or that of a Posterior's network."""
    with nullcontext(posterior) if isinstance(posterior, keras.Model) else posterior.fixed(seed, number) as model:
        if not isinstance(model, keras.Model):
            raise TypeError(
                f"expected {type(posterior).__name__}.fixed to yield a Keras model, found {type(model).__name__}. "
                "Let it yield the model that has the drawn weights."
            )
        yield model


def _batch_size(model: keras.Model) -> int | None:
    """Return the number of examples that a model takes in each call, None if it takes any."""
    return next((spec.shape[0] for spec in tf.nest.flatten(getattr(model, "inputs", None) or [])), None)


def _check_outputs(outputs: Any, count: int, n: int) -> None:
    """Raise a ValueError where an output has not one row for each example."""
    for shape in (output.shape for output in tf.nest.flatten(outputs)):
        if shape[:2] != (count, n):
            raise ValueError(
                f"expected outputs [N, ...] with a row for each of {n} examples, found {list(shape[1:])}. "
                "Let the model return one row for each example."
            )


def _chunks(networks: Networks, num_examples: int, num_draws: int, budget: int) -> tuple[int, int, int]:
    """Return (draws at a time, examples in one call, examples in one block) that stay within `budget` bytes."""
    # Half of the budget is for weights. Stacking holds all of them twice, and some more are being drawn meanwhile.
    at_once = max(1, min(DRAWS, num_draws, budget // 4 // max(1, networks.weight_bytes) - 4))
    block_bytes = networks.example_bytes * (at_once if networks.stacked else 1)
    block = max(1, min(CACHE, budget // 8) // block_bytes)  # for each of the two networks that run at a time
    rows = block if networks.stacked else PASSES // at_once
    rows = max(1, min(rows, num_examples, budget // 4 // networks.shared_bytes))
    # Blocks have equal sizes, because the last one is padded.
    return at_once, rows, math.ceil(rows / math.ceil(rows / block))
