"""The Monte Carlo predictive distribution of a Bayesian model, on one rank or split over several.

    p = predict(model, x_test)       # [S, N, C]
    p.mean(axis=0)                   # the predictive distribution, [N, C]

p(y | x, data) is the mean of p(y | x, w) over the posterior of the weights w (Blundell et al. 2015, section 2). Here
this mean is taken over S independent draws of all weights, and all inputs share each draw. A forward pass of a flipout
layer is no such draw. It gives each example signs of its own (Wen et al. 2018, equation 4), so its outputs for two
inputs are not those of one network.
"""

import math

from helpers import data
from helpers.distributed import ALONE, World
from helpers.inference.networks import Networks, compile_networks
from helpers.progress import bar

import numpy as np
import tf_keras as keras

MB = 2**20
DRAWS = 32  # at a time; more of them take memory and save no time
PASSES = 8192  # draws times examples in one call, which costs about a millisecond
CACHE = 12 * MB  # bytes that a block of examples may take, so that it stays in the processor's cache


def predict(
    model: keras.Model,
    x: np.ndarray,
    num_draws: int = 300,
    *,
    seed: int = 0,
    world: World = ALONE,
    budget_mb: float = 512,
    progress: bool = False,
) -> np.ndarray:
    """Return the class probabilities of networks drawn from the posterior of a model that gives logits.

    Args:
      model, x, num_draws, seed, world, budget_mb, progress: as `sample_outputs` takes them.

    Returns:
      float32 [S, N, C], the softmax of `sample_outputs` over the last axis.

    Raises:
      ValueError, TypeError, distributed.RankFailure: as `sample_outputs` does.
    """
    logits = sample_outputs(model, x, num_draws, seed=seed, world=world, budget_mb=budget_mb, progress=progress)
    # In place, because the result may take much memory.
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    return logits


def sample_outputs(
    model: keras.Model,
    x: np.ndarray,
    num_draws: int = 300,
    *,
    seed: int = 0,
    world: World = ALONE,
    budget_mb: float = 512,
    progress: bool = False,
) -> np.ndarray:
    """Return the outputs of networks drawn from the model's posterior, each applied to every input.

    The model is any Keras model whose outputs for one example do not depend on the other examples. Its Bayesian layers
    are those of `helpers.layers` or tfp.layers, at any depth. The other layers act as in inference, so dropout is off,
    and batch normalisation uses its moving averages.

    Args:
      model: a Keras model of one input and one output [N, K].
      x: [N, ...]; uint8 images, which are scaled to [0, 1], or what the model takes, which stays as it is.
      num_draws: S, at least 1.
      seed: draw s depends on the seed and on s alone, not on the budget, on x or on the number of ranks.
      world: the ranks that share the draws. Every rank calls with the same arguments and gets the whole result.
        With `ALONE` this process computes all draws.
      budget_mb: a limit, in MB of 2^20 bytes, to the memory that is taken besides x and the result. One draw of one
        example may exceed it.
      progress: show a bar on rank 0.

    Returns:
      float32 [S, N, K]; [1, N, K] if the model has no Bayesian layer.

    Raises:
      ValueError: there are no draws or no examples, or x has another shape than the model's input.
      TypeError: the model's output is not one tensor.
      distributed.RankFailure: another rank has failed.
    """
    try:
        outputs = _outputs_of_rank(model, np.asarray(x), num_draws, seed, int(budget_mb * MB), world, progress)
    except Exception as failure:
        world.agree(failure)  # which raises it
    world.agree(None)
    # Only one rank, whichever it is, has an output of a deterministic model.
    return world.gather(outputs)


def _outputs_of_rank(
    model: keras.Model, x: np.ndarray, num_draws: int, seed: int, budget: int, world: World, progress: bool
) -> np.ndarray:
    """Return the outputs of this rank's draws, [S_rank, N, K], within `budget` bytes."""
    _check(model, x, num_draws)
    networks = compile_networks(model, x)
    num_draws = num_draws if networks.weight_bytes else 1
    begin, end = (part * num_draws // world.size for part in (world.rank, world.rank + 1))
    at_once, rows, block = _chunks(networks, len(x), end - begin, budget)
    outputs = np.empty(0, np.float32)
    with bar(total=(end - begin) * len(x), desc="forward passes", disable=not progress) as ticker:
        # A rank without a draw computes one output, but keeps only its shape.
        for first in range(begin, max(end, begin + 1), at_once):
            count = min(at_once, end - first) or 1
            weights = networks.weights(seed, first, count)
            for start in range(0, len(x), rows):
                part = x[start : start + rows]
                part = networks.outputs(data.normalise(part) if part.dtype == np.uint8 else part, weights, block)
                if (first, start) == (begin, 0):  # this part tells the shape
                    outputs = np.empty([end - begin, len(x), *part.shape[2:]], np.float32)
                outputs[first - begin : first - begin + count, start : start + rows] = part[: end - first]
                ticker.update(count * part.shape[1])
    return outputs


def _check(model: keras.Model, x: np.ndarray, num_draws: int) -> None:
    """Raise a ValueError where the number of draws or the shape of x does not fit."""
    if num_draws < 1:
        raise ValueError(f"expected at least 1 draw, found num_draws={num_draws}")
    try:
        shape = model.input_shape
    except (AttributeError, RuntimeError):  # such a model takes any shape until it is called
        shape = x.shape
    if isinstance(shape, list):
        raise ValueError(f"expected a model of one input, found one of {len(shape)}")
    expected = shape[1:]
    fits = len(expected) == x.ndim - 1 and all(a in (None, b) for a, b in zip(expected, x.shape[1:], strict=True))
    if not (fits and len(x)):
        shape = ", ".join(["N"] + [str(size) for size in expected])
        raise ValueError(f"expected x [{shape}] of at least one example, found {list(x.shape)}")


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
