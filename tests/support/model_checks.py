"""What test_models.py checks, run by mpiexec on two ranks: models with noise or state that `helpers` does not make.

`mpiexec -n 2 python -m tests.support.model_checks FOLDER` leaves each rank's findings in FOLDER/result-RANK.json.
"""

import json
import random
import sys
import warnings

from helpers.distributed import ALONE, differing, init

world = init(half_precision=True)

from helpers import data  # noqa: E402
from helpers.distributed.horovod_world import HorovodWorld  # noqa: E402
from helpers.elbo import NegativeElbo  # noqa: E402
from helpers.fit import fit  # noqa: E402
from helpers.layers import DenseFlipout  # noqa: E402
from helpers.runs import Run, restore_model  # noqa: E402

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_probability as tfp  # noqa: E402
import tf_keras as keras  # noqa: E402

kl = keras.layers


class Noise(kl.Layer):
    """Adds what `draw` returns for a shape, as a layer that a reader wrote."""

    def __init__(self, draw, **named):
        super().__init__(**named)
        self.draw = draw

    def call(self, x):
        return x + self.draw(tf.shape(x))


class Traced(Noise):
    """The same, inside a tf.function of its own."""

    @tf.function
    def call(self, x):
        return x + self.draw(tf.shape(x))


class Owner(kl.Layer):
    """Owns a generator under a name of its own, and a part with the name that the course's layers use."""

    def __init__(self):
        super().__init__()
        self.stream, self.generator = tf.random.Generator.from_seed(1), kl.Dense(4)

    def call(self, x):
        return self.generator(x) * self.stream.normal(tf.shape(x))


CLOSED = tf.random.Generator.from_seed(7)  # no layer has it as an attribute


def closed_noise(shape):
    return CLOSED.normal(shape)


def numpy_noise(shape):
    def draw():
        return np.float32([np.random.normal(), random.random(), 0, 0])  # noqa: NPY002

    return tf.ensure_shape(tf.numpy_function(draw, [], tf.float32), [4])


def global_noise(shape):
    return tf.random.get_global_generator().normal(shape)


SOURCES = {
    "tfp": lambda: tfp.layers.DenseReparameterization(4),
    "tfp flipout": lambda: tfp.layers.DenseFlipout(4, seed=3),
    "ours": lambda: DenseFlipout(4),
    "dropout": lambda: kl.Dropout(0.5),
    "seeded dropout": lambda: kl.Dropout(0.5, seed=2),
    "gaussian": lambda: kl.GaussianNoise(1.0),
    "augmentation": lambda: kl.RandomFlip(seed=4),
    "recurrent dropout": lambda: keras.Sequential([kl.Reshape([4, 1]), kl.LSTM(4, dropout=0.5)]),
    "own": lambda: Noise(tf.random.normal),
    "own function": lambda: Traced(tf.random.normal),
    "own generator": Owner,
    "global generator": lambda: Noise(global_noise),
    "generator in a closure": lambda: Noise(closed_noise),
    "numpy": lambda: Noise(numpy_noise),
}


def seeded():
    keras.utils.set_random_seed(0)
    tf.random.set_global_generator(tf.random.Generator.from_seed(0))


def train(name, folder=None, steps=2, resume=False):
    """Train a model with that noise from one seed, and return the mean output of each step."""
    seeded()
    inner = SOURCES[name]()
    if isinstance(inner, kl.RandomFlip):  # it takes images
        inner = keras.Sequential([kl.Reshape([2, 2, 1]), inner, kl.Flatten()])
    weights = keras.initializers.Constant(1.0 + np.arange(4.0)[:, None] ** 2)
    model = keras.Sequential([kl.InputLayer([4]), inner, kl.Dense(1, kernel_initializer=weights)], name="noisy")
    # Every rank has the same examples, so only noise can make their outputs differ.
    x, y, means = np.tile(np.float32([[1, 3, 2, 5]]), [64, 1]), np.zeros([64, 1], np.float32), []
    # Functions are traced before fit traces them.
    model(x[:8], training=True)
    kept = {"folder": folder, "resume": resume, "checkpoint_every": 2} if folder else {}
    run = Run(
        world=world, max_steps=steps, callback=lambda *now: means.append(now[2].get("nll")), callback_every=1, **kept
    )
    loss = NegativeElbo(nll=lambda y, outputs: tf.reduce_mean(outputs))
    fit(model, x, y, batch_size=8, optimizer=keras.optimizers.legacy.SGD(0.0), loss=loss, run=run)
    return [mean for mean in means if mean is not None]


def noise(folder):
    return {name: train(name) for name in SOURCES}


def resumed(folder):
    """The outputs of steps 3 and 4 of an uninterrupted run, and of two runs that were resumed after step 2."""
    found = {}
    for name in ("ours", "own generator", "dropout"):
        # A checkpoint averages the means over the ranks, so the uninterrupted run saves some as well.
        whole, *parts = (f"{folder}/{name}-{part}" for part in range(3))
        for part in parts:
            train(name, part)
        found[name] = [train(name, whole, steps=4)[2:], *(train(name, part, steps=4, resume=True) for part in parts)]
    return found


def seed_after(folder):
    """What TensorFlow draws after two runs with one seed."""
    draws = []
    seeded()
    for _ in range(2):
        model = keras.Sequential([kl.InputLayer([4]), kl.Dense(2)])
        fit(model, np.ones([32, 4], np.float32), np.zeros(32, np.int32), batch_size=8, run=Run(world=world))
        draws.append(float(tf.random.normal([])))
    return draws


def moving_averages(folder):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 4)).astype(np.float32), rng.integers(0, 2, 64).astype(np.int32)
    seeded()
    frozen = kl.Dense(3, trainable=False)
    layers = [kl.InputLayer([4]), frozen, kl.BatchNormalization(), DenseFlipout(2)]
    model, seen = keras.Sequential(layers), []
    before = frozen.kernel.numpy()

    def callback(step, model, row):
        seen.append(differing(model.variables, world))

    saved = f"{folder}/averages"
    fit(model, x, y, batch_size=8, run=Run(world=world, folder=saved, callback=callback, callback_every=3))
    moved = float(np.abs(model.layers[1].moving_mean).max())
    # By hand: rank r's batches have the means m_t of their inputs to the layer, and a moves to 0.99 a + 0.01 m_t.
    mean = np.zeros(3)
    for batch, _ in data.batches(x, y, batch_size=8, seed=0, epoch=0, rank=world.rank, size=world.size):
        mean = 0.99 * mean + 0.01 * frozen(batch).numpy().mean(axis=0)
    expected = float(np.abs(world.mean(mean) - model.layers[1].moving_mean).max())
    again = keras.models.clone_model(model)
    restore_model(again, saved)
    apart = max(float(np.abs(a - b).max()) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))
    return seen, moved, expected, apart, bool((frozen.kernel.numpy() == before).all())


class TwoTasks(keras.Sequential):
    """Has a variable that the loss does not reach, as the head of another task."""

    def build(self, shape):
        super().build(shape)
        self.other = self.add_weight("other_head", [3, 5])


def unused_variable(folder):
    seeded()
    model = TwoTasks([kl.InputLayer([4]), kl.Dense(3), DenseFlipout(2)])
    model.build([None, 4])
    before, kept = model.layers[0].kernel.numpy(), model.other.numpy()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit(model, np.ones([64, 4], np.float32), np.zeros(64, np.int32), batch_size=8, run=Run(world=world))
    named = sum("other_head" in str(warning.message) for warning in told)
    moved = float(np.abs(model.layers[0].kernel - before).max())
    return differing(model.variables, world), moved, float(np.abs(model.other - kept).max()), named


def embedding(folder):
    """The distance of two ranks' weights from those of one rank; gradients of an Embedding are sparse."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 10, (64, 3)).astype(np.int32), rng.integers(0, 2, 64).astype(np.int32)
    models, found = [], []
    for half in (True, False):
        for size, ranks in ((8, HorovodWorld(half)), (16, ALONE)):
            seeded()
            models.append(keras.Sequential([kl.InputLayer([3]), kl.Embedding(10, 4), kl.Flatten(), kl.Dense(2)]))
            fit(models[-1], x, y, epochs=2, batch_size=size, run=Run(world=ranks))
        pairs = zip(models[-2].get_weights(), models[-1].get_weights(), strict=True)
        found.append(max(float(np.abs(a - b).max()) for a, b in pairs))
    return found


if __name__ == "__main__":
    checks = (noise, resumed, seed_after, moving_averages, unused_variable, embedding)
    results = {check.__name__: check(sys.argv[1]) for check in checks}
    with open(f"{sys.argv[1]}/result-{world.rank}.json", "w") as file:
        json.dump(results, file)
