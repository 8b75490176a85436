"""What the benchmark times: one part in a process of its own, `python -m tests.bench.parts '["train", "FC", 12, 20]'`.

Everything that is compared takes turns, round after round, so that a noisy machine is noisy to all alike. Results
are seconds a step, or a draw, of every round, as a line of JSON. Images are random.
"""

import json
import os
import resource
import subprocess
import sys
import time
import warnings
from functools import partial

BEGAN = float(os.environ.get("BNN_BENCH_BEGAN", time.time()))

from helpers import ROOT, models  # noqa: E402 the clock first: start-up is timed too
from helpers.fit import stepper  # noqa: E402
from helpers.layers.noise import stateless_normal  # noqa: E402
from helpers.methods.ivon import IVON  # noqa: E402
from helpers.timing import interleaved  # noqa: E402

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_probability as tfp  # noqa: E402
import tf_keras as keras  # noqa: E402

IMPORTED = time.time()
warnings.filterwarnings("ignore", message=".*(add_variable|RandomNormal)")  # of stock layers
BATCH, EXAMPLES = 64, 60_000
# Short name: the model, its images, examples of Monte-Carlo inference.
MODELS = {
    "FC": ("BNN_FC_flip", (28, 28, 1), 1000),
    "conv": ("BNN_conv_flip", (28, 28, 1), 250),
    "CIFAR": ("CIFAR10_BNN_model", (32, 32, 3), 100),
}


class PatchConv2D(keras.layers.Conv2D):
    """A Conv2D computed as flipout's is where there are few inputs to a place: patches, then a product."""

    def call(self, inputs):
        size = np.prod(self.kernel.shape[:3])
        one_hot = tf.reshape(tf.eye(size), [*self.kernel.shape[:3], size])
        patches = tf.nn.conv2d(inputs, one_hot, self.strides, self.padding.upper())
        outputs = tf.matmul(tf.reshape(patches, [-1, size]), tf.reshape(self.kernel, [size, self.filters]))
        shape = [-1, *patches.shape[1:3], self.filters]
        return self.activation(tf.nn.bias_add(tf.reshape(outputs, shape), self.bias))


def build(short, variant):
    """The catalogue's model, its twin, or one of them with other layers in place of some."""
    name, shape = MODELS[short][:2]
    if variant == "ours":
        return models.build(name, shape)
    if variant == "twin":
        return models.build(models.twin(name), shape)
    source = build(short, "ours" if variant == "stock" else "twin")
    return keras.Sequential([keras.layers.InputLayer(shape), *map(globals()[f"_{variant}"], source.layers)])


def _stock(layer):
    """TFP's layer for one of ours; its KL is divided by the number of examples, for `model.fit`."""
    if not hasattr(layer, "kernel_posterior"):
        return type(layer).from_config(layer.get_config())
    convolves = hasattr(layer, "kernel_size")
    cls = tfp.layers.Convolution2DFlipout if convolves else tfp.layers.DenseFlipout
    more = {"kernel_size": layer.kernel_size, "padding": layer.padding} if convolves else {}
    divergence = lambda q, p, _: tfp.distributions.kl_divergence(q, p) / EXAMPLES  # noqa: E731
    units = layer.filters if convolves else layer.units
    return cls(units, activation=layer.activation, kernel_divergence_fn=divergence, **more)


def _alike(layer):
    few = isinstance(layer, keras.layers.Conv2D) and np.prod(layer.kernel.shape[:3]) <= 32
    return (PatchConv2D if few else type(layer)).from_config(layer.get_config())


def images(short, n):
    random = np.random.default_rng(0)
    return random.random((n, *MODELS[short][1]), np.float32), random.integers(0, 10, n).astype(np.int32)


def in_turn(run, rounds):
    """`interleaved`, with half of the turns in another order: what follows a busy neighbour takes longer."""
    names = list(run)
    turned = (names[len(names) // 2 :] + names[: len(names) // 2])[::-1]
    turns = {(name, turn): run[name] for turn, order in enumerate((names, turned)) for name in order}
    seconds = interleaved(turns, -(-rounds // 2))
    return {name: np.concatenate([seconds[name, 0], seconds[name, 1]]) for name in names}


def repeat(function, times):
    return lambda: [function() for _ in range(times)] and None


def train(short, rounds, steps):
    x, y = images(short, BATCH)
    made = {name: build(short, name) for name in ("ours", "stock", "twin")}
    alike = build(short, "alike")
    if any(isinstance(layer, PatchConv2D) for layer in alike.layers):
        made["twin lowered alike"] = alike
    run = {name: repeat(stepper(model, x, y, batch_size=BATCH, steps=1), steps) for name, model in made.items()}
    calls = -(-steps // 10)
    ten = {"batch_size": BATCH, "steps": steps // calls}
    run |= {f"{n}, 10 a call": repeat(stepper(made[n], x, y, **ten), calls) for n in ("ours", "stock", "twin")}
    fitted = build(short, "stock")
    fitted.compile(keras.optimizers.legacy.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(True))
    data = tf.data.Dataset.from_tensors((x, y)).repeat(steps)
    run["stock in fit"] = lambda: fitted.fit(data, verbose=0)
    ivon = build(short, "twin")  # of its own, because what is timed changes the weights
    for name, how in (("", {"steps": 1}), (", 10 a call", {"steps": steps // calls})):
        step = stepper(ivon, x, y, batch_size=BATCH, optimizer=IVON(0.1, EXAMPLES), **how)
        run[f"IVON{name}"] = repeat(step, steps if how["steps"] == 1 else calls)
    keys, numbers = tf.reshape(tf.range(2 * steps, dtype=tf.int64), [-1, 2]), [ivon.count_params()]
    draw = tf.function(lambda: tf.scan(lambda _, key: stateless_normal(key, numbers), keys, tf.zeros(numbers)))
    run["a normal number a weight"] = draw  # what a step of IVON has to do beyond one of Adam
    if python := os.environ.get("BNN_TORCH_PYTHON"):
        layers = [_described(layer) for layer in made["ours"].layers]
        plan = json.dumps([MODELS[short][1], BATCH, EXAMPLES, steps, layers])
        command = [python, str(ROOT / "tests" / "bench" / "bayesian_torch.py"), plan]
        torch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

        def ask(name):
            torch.stdin.write(name + "\n")
            if torch.stdout.readline().strip() != "done":
                raise RuntimeError("bayesian_torch.py failed: see its message above")

        run |= {name: partial(ask, name) for name in ("bayesian-torch", "torch twin")}
    return {name: s / steps for name, s in in_turn(run, rounds).items()}


def _described(layer):
    """A layer in words that the torch worker understands."""
    kind = {"Flatten": "flatten", "MaxPooling2D": "pool"}.get(type(layer).__name__)
    if kind:
        return {"kind": kind}
    relu, bayesian = layer.activation is keras.activations.relu, hasattr(layer, "kernel_posterior")
    if hasattr(layer, "filters"):
        size = {"kind": "conv", "units": layer.filters, "kernel": layer.kernel_size[0]}
    else:
        size = {"kind": "dense", "units": layer.units}
    return {"relu": relu, "bayesian": bayesian, **size}


def inference(short, rounds, draws):
    """Seconds a draw of ours, of loops over the model and of the twin's forward passes."""
    from helpers.inference import sample_outputs

    x, _ = images(short, MODELS[short][2])
    model, stock, twin = (build(short, variant) for variant in ("ours", "stock", "twin"))
    tensor, few = tf.constant(x), max(2, min(10, draws))

    @tf.function
    def loop():
        return tf.map_fn(lambda _: model(tensor), tf.range(few), fn_output_signature=tf.float32)

    forward = tf.function(twin)
    run = {
        "ours": (lambda: sample_outputs(model, x, draws), draws),
        "Python loop": (lambda: [model(tensor) for _ in range(few)], few),
        "Python loop of stock": (lambda: [stock(tensor) for _ in range(few)], few),
        "tf.function loop": (loop, few),
        "deterministic forwards": (lambda: [forward(tensor) for _ in range(few)], few),
    }
    seconds = in_turn({name: function for name, (function, _) in run.items()}, rounds)
    return {name: s / run[name][1] for name, s in seconds.items()}


def ranks(short, rounds, steps):
    """Run by mpiexec on every rank: the step with and without averaging gradients; rank 0's times."""
    from helpers.distributed import ALONE, init

    world = init()
    x, y = images(short, BATCH * world.size)
    model = build(short, "ours")
    how = {"batch_size": BATCH, "steps": steps}
    both = {"step": world, "step without all-reduce": ALONE}
    run = {name: stepper(model, x, y, world=with_ranks, **how) for name, with_ranks in both.items()}

    def together(function):
        function()
        world.barrier()  # the next call begins on all ranks at once

    seconds = in_turn({name: partial(together, function) for name, function in run.items()}, rounds)
    return {name: s / steps for name, s in seconds.items()} if world.rank == 0 else None


def alone(short, variant, *_):
    """Start-up of a training run until its first and second call, in seconds, and its memory in MB."""
    from helpers.fit import fit
    from helpers.runs import Run

    shape = MODELS[short][1]
    x = np.random.default_rng(0).integers(0, 256, (20 * BATCH, *shape), dtype=np.uint8)
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)  # noqa: E731
    imported = peak()
    began = time.time()
    model = build(short, variant)
    built = time.time()
    y = np.zeros(len(x), np.int32)
    history = fit(model, x, y, batch_size=BATCH, run=Run(max_steps=10, steps_per_call=1, progress=False))
    first, *others = [call["seconds"] for call in history.steps]
    return {
        "imports": IMPORTED - BEGAN, "building the model": built - began, "first step, with tracing": first,
        "the rest of the first ten": sum(others), "whole": time.time() - BEGAN,
        "MB after imports": imported, "MB at the most": peak(),
    }  # fmt: skip


def growth(rounds, quick):
    """Rows of times and memory over sizes, see growth.py."""
    from tests.bench.growth import measure

    return {"rows": measure(rounds, quick)}


def roofline(shorts, rounds, quick):
    """Rows of the machine's roofs and of inference by each model, see roofline.py."""
    from tests.bench.roofline import measure

    builders = {}
    for short in shorts:
        x = images(short, MODELS[short][2])[0]
        builders[short] = build(short, "ours"), build(short, "twin"), x, 4 if quick else 32
    return {"rows": measure(builders, rounds, quick)}


PARTS = {part.__name__: part for part in (train, inference, ranks, alone, growth, roofline)}

if __name__ == "__main__":
    part, *arguments = json.loads(sys.argv[1])
    found = PARTS[part](*arguments)
    if found is not None:
        print(json.dumps({name: v if isinstance(v, float) else list(v) for name, v in found.items()}), flush=True)
