"""What test_distributed.py checks, run by mpiexec on every rank: one launch for all checks of a world size.

`mpiexec -n 2 python -m tests.support.rank_checks FOLDER` leaves each rank's findings in FOLDER/result-RANK.json.
"""

import json
import sys

from helpers.distributed import differing, init

world = init()

from helpers import data, elbo, layers, models  # noqa: E402
from helpers.fit import fit  # noqa: E402
from helpers.runs import Run  # noqa: E402

import numpy as np  # noqa: E402 Horovod first: it fixes the threads
import tensorflow as tf  # noqa: E402
import tf_keras as keras  # noqa: E402

digits = data.load("mnist", quiet=True)
x, y = digits.x_train[:403], digits.y_train[:403]


def build(seed, name="BNN_FC_flip"):
    keras.utils.set_random_seed(seed)
    return models.build(name)


def gap(first, second):
    """The largest absolute difference of two lists of arrays."""
    return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in zip(first, second, strict=True))


def broadcast(folder):
    model = build(world.rank)
    before = differing(model.variables, world)
    world.broadcast(model.variables)
    return before, differing(model.variables, world), float(model.variables[0].numpy().sum())


def shards(folder):
    found = []
    for n in (403, 256, 257, 259):
        shard = data.shard(data.epoch_order(n, seed=1, epoch=2), world.rank, world.size)
        steps = len(data.batches(x[:n], y[:n], batch_size=16, seed=1, epoch=2, rank=world.rank, size=world.size))
        found.append([n, shard.tolist(), steps])
    return found


def averaged_gradient(folder):
    model = build(0, "BNN_FC_nonflip")

    def gradients(part):
        layers.seed_noise(model, seed=9, rank=0)
        with tf.GradientTape() as tape:
            loss, *_ = elbo.NegativeElbo()(model, data.normalise(x[part]), y[part], num_examples=1000)
        return tape.gradient(loss, model.trainable_variables)

    whole = gradients(slice(0, 64))
    averaged = world.average(gradients(slice(world.rank, 64, world.size)))
    return max(
        float(tf.reduce_max(tf.abs(a - b)) / tf.reduce_max(tf.abs(b))) for a, b in zip(averaged, whole, strict=True)
    )


def like_one_rank(folder):
    start, model, alone = (build(0, "CNN_FC") for _ in range(3))
    fit(model, x, y, epochs=2, batch_size=16, seed=4, run=Run(world=world))
    fit(alone, x, y, epochs=2, batch_size=16 * world.size, seed=4)
    return gap(model.get_weights(), start.get_weights()), gap(model.get_weights(), alone.get_weights())


def noise(folder):
    def run(seed):
        model = build(world.rank)
        history = fit(model, x, y, epochs=1, batch_size=16, seed=seed, run=Run(world=world))
        outputs = world.gather_objects(model(data.normalise(x[:4])).numpy().tobytes())
        return model, len(set(outputs)), history.epochs[-1]["loss"]

    (first, distinct, loss), (second, *_), (other, *_) = run(3), run(3), run(4)
    again, changed = (gap(first.get_weights(), model.get_weights()) for model in (second, other))
    return differing(first.trainable_variables, world), distinct, again, changed, loss


def resumed(folder):
    def run(name, **options):
        model = build(world.rank)
        run = Run(folder=f"{folder}/{name}", checkpoint_every=4, world=world, **options)
        fit(model, x, y, batch_size=16, seed=3, epochs=2, run=run)
        return model.get_weights()

    whole = run("whole")
    run("parts", max_steps=8)
    return gap(whole, run("parts", resume=True))


def failure(folder):
    try:
        world.agree(ValueError("no such file") if world.rank == 1 else None)
    except Exception as error:
        return type(error).__name__, str(error)


if __name__ == "__main__":
    checks = (broadcast, shards, averaged_gradient, like_one_rank, noise, resumed, failure)
    results = {check.__name__: check(sys.argv[1]) for check in checks}
    with open(f"{sys.argv[1]}/result-{world.rank}.json", "w") as file:
        json.dump(results, file)
