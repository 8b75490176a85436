"""The self-checks of the exercises accept each right answer, and say of each wrong one why it is wrong."""

import json
import os
import re
import subprocess
import sys

from helpers import ROOT

import nbformat
import pytest
from nbformat import v4

from tests.support import exercises
from tests.support.prose.text import CHAPTERS, EXCEPTIONS

UNCHECKED = [path for path in CHAPTERS if f"notebooks/{path.name}" in EXCEPTIONS["unchecked"]]
WITH_CHECKS = [path for path in CHAPTERS if path not in UNCHECKED or exercises.checks(path)]
each = pytest.mark.parametrize("path", WITH_CHECKS, ids=lambda path: path.stem)

# {notebook: {exercise: (right answers, wrong answers)}}. Answers are expressions, which may use the notebook's names.
LINE = "lambda x: np.stack([{}], axis=1)"
GAUSS = (
    "lambda x, y, s: (lambda P: (np.linalg.solve(P, bumps(x).T @ (y / s**2)), {}))"
    "(np.eye(7) + bumps(x).T @ (bumps(x) / s[:, None] ** 2))"
)
FACTOR_20 = "np.mean([simulate(20, np.random.default_rng(i), tau2=0.25)[0] for i in range(1000)]) / NOISE**2"
NARROW = "lambda x: np.exp(-0.5 * ((x[:, None] - np.linspace(-4, 4, 41)) / 0.1) ** 2)"
PARTS = "exact_parts(np.array([0.25]), *posterior(x_many[:n], y_many[:n], f), f)[1][0]"
IN_GAP = f"(lambda f: [{PARTS} for n in (200, 2000)])({NARROW})"
SIGNS = "tf.cast(2 * np.random.randint(0, 2, {}) - 1, tf.float32)"
ONE_SIDED = (
    f"lambda x, mean, scale: x @ mean + (x @ (scale * tf.random.normal(scale.shape))) * {SIGNS.format('(3, 4)')}"
)
GAIN = (
    "lambda d, y: np.mean(np.log(d.mean(axis=0)[np.arange(len(y)), y])"
    " - np.log(d[:, np.arange(len(y)), y]).mean(axis=0))"
)
WEIGHED = "(5 / (256 * np.pi ** (8 / 3)) * (35 ** (-8 / 3) - 150 ** (-8 / 3)) / 0.2) ** (3 / 5)"
SIZE = "lambda p, q: (lambda w: (lambda v: v.sum() ** 2 / np.sum(v**2))(np.exp({})))(p - q)"
ANSWERS = {
    "00_start_here": {
        1: (
            [
                "np.stack([np.where(at < 0, np.sin(2 * at), 0) + np.random.default_rng(0).normal(0, 0.05, (300, 361)),"
                " np.full((300, 361), 0.1)], -1)"
            ],
            [
                "np.zeros((300, 361))",
                "np.zeros((300, 361, 2))",
                "np.stack([np.tile(np.sin(2 * at), (300, 1)), np.full((300, 361), 0.1)], -1)",
            ],
        ),
        2: (["np.sqrt(10)", "3.16", "'3.2'", "3.162"], ["10", "0.316", "5", "'three'", "None"]),
    },
    "01_uncertainty": {
        1: (
            [LINE.format("np.ones_like(x), x"), LINE.format("x + 3, 2 * x - 1")],
            [LINE.format("x, x**2"), "lambda x: x", LINE.format("x, 2 * x")],
        ),
        2: (["700", "700.0", "'700'", "np.int64(703)"], ["7", "70", "100", "7000", "'many'", "None"]),
        3: (
            [GAUSS.format("np.linalg.inv(P)"), GAUSS.format("np.linalg.solve(P, np.eye(7))")],
            [GAUSS.format("P"), GAUSS.format("np.linalg.inv(P - np.eye(7) + 1e-6)"), GAUSS.format("np.ones(7)")],
        ),
        4: (
            [FACTOR_20, f"round({FACTOR_20}, 1)"],
            [f"NOISE**2 * {FACTOR_20}", f"np.sqrt({FACTOR_20})", "1", "'large'"],
        ),
        5: (
            [f"{IN_GAP}[0] / {IN_GAP}[1]", f"float('%.3g' % ({IN_GAP}[0] / {IN_GAP}[1]))"],
            [f"{IN_GAP}[1] / {IN_GAP}[0]", "10", "None"],
        ),
    },
    "02_variational_inference": {
        1: (
            ["(m, covariance)", "(list(m + 0.01 * np.sqrt(np.diag(covariance))), 1.05 * covariance)"],
            [
                "(m, np.linalg.cholesky(covariance))",
                "(m, np.diag(np.diag(covariance)))",
                "(m, np.linalg.inv(covariance))",
                "(m, 2 * covariance)",
                "(m + 1, covariance)",
                "m",
            ],
        ),
        2: (
            ["(0.25, 4 / 7)", "'1/4, 4/7'", "[0.25, 0.571]", "(0.25, 0.57)"],
            ["(4 / 7, 0.25)", "(0.5, (4 / 7) ** 0.5)", "(4, 7 / 4)", "(1, 1)", "0.25"],
        ),
    },
    "02b_kl_weight": {
        3: (["128", "128.0", "'128'"], ["60_000", "128 / 60_000", "60_000 / 128", "100", "None"]),
        4: (
            ["(0.25, 1)", "'1/4, 1'", "[0.25, 1.0]"],
            ["(1, 0.25)", "(0.25, 2)", "(0.25, 0.5)", "(4, 1)", "(0.5, 1)", "7"],
        ),
    },
    "03_flipout": {
        1: (
            [ONE_SIDED, ONE_SIDED.replace("x @ mean +", "x @ mean -"), f"lambda *a: ({ONE_SIDED})(*a).numpy()"],
            [
                ONE_SIDED.replace("(3, 4)", "(1, 4)"),
                ONE_SIDED.replace("(3, 4)", "(3, 1)"),
                ONE_SIDED.replace("x @ mean +", ""),
                ONE_SIDED.replace("(scale *", "(2 * scale *"),
                "lambda x, mean, scale: x @ mean",
                f"({ONE_SIDED})(tf.ones([3, 6]), tf.ones([6, 4]), tf.ones([6, 4]))",
            ],
        ),
        2: (["50", "50.0", "1 / 0.02", "'50'"], ["0.02", "100", "25", "np.inf", "'none'", "7"]),
        3: (
            ["1.042", "(7.5 / 8 + 0.045 * 7 / 8) / (7.5 / 8)", "1.04", "'1.042'"],
            ["1 / 1.042", "4.2", "1.048", "2", "None"],
        ),
    },
    "04_mnist": {
        1: (
            [
                "lambda p, t: p ** (1 / t) / np.sum(p ** (1 / t), axis=1, keepdims=True)",
                "lambda p, t: np.exp(np.log(p) / t) / np.exp(np.log(p) / t).sum(axis=1)[:, None]",
                "lambda p, t: tf.nn.softmax(tf.math.log(p) / t).numpy()",
            ],
            [
                "lambda p, t: p ** (1 / t)",
                "lambda p, t: p",
                "lambda p, t: p**t / np.sum(p**t, axis=1, keepdims=True)",
                "lambda p, t: tf.nn.softmax(p / t).numpy()",
                "lambda p, t: p.mean(axis=0)",
                "lambda p: p",
                "2.5",
            ],
        ),
        2: (
            ["(0, 1, 0)", "'0, 1, 0'", "[0.0, 1.0, 0.0]", "'0 1 0'"],
            ["(0, 0, 0)", "(0, 1, 1)", "(1, 1, 0)", "(0, 0.01, 4.1)", "(0, -1, 0)", "(0, 1)", "0"],
        ),
        3: (
            ["5141", "(np.log(np.expm1(1.0)) - np.log(np.expm1(0.01))) / 0.001", "'5141.5'", "5150"],
            ["10283", "990", "np.log(100) / 0.001", "1000", "5.14", "None"],
        ),
    },
    "05_cifar10": {
        1: (["0.1", "1e-1", "np.float64(0.1)"], ["0.03", "0.3", "1", "0.2", "'a tenth'", "[0.1]", "None"]),
        2: (
            ["(0.2009, 4605)", "[0.01 * np.exp(3), 4606]", "np.array([0.2, 4605.0])", "(0.1839, 5141)"],
            ["(0.03, 4605)", "(0.2, 100)", "(np.exp(3), 4605)", "(4605, 0.2)", "(0.184, 4000)", "0.2", "None"],
        ),
        3: (
            ["(0.0316, 0.999)", "['0.0316', '1.0']", "(1001**-0.5, 1000 / 1001)"],
            ["(0.001, 0.999)", "(0.0316, 0.5)", "(0.0316, 0.00001)", "(0.999, 0.0316)", "0.0316", "None"],
        ),
    },
    "06_horovod": {
        1: (["2", "2.0", "'2'", "np.float64(2)"], ["0.5", "1", "4", "1 / 2", "'twice'", "None"]),
        2: (
            [
                "lambda g, n: np.tensordot(n, g, 1) / n.sum()",
                "lambda g, n: np.average(g, axis=0, weights=n)",
                "lambda g, n: list(sum(k * row for k, row in zip(n, g)) / sum(n))",
            ],
            [
                "lambda g, n: g.mean(axis=0)",
                "lambda g, n: n @ g",
                "lambda g, n: n @ g / len(n)",
                "lambda g, n: g / n[:, None]",
                "lambda g, n: np.average(g, axis=0, weights=1 / n)",
                "lambda g: g",
                "2",
            ],
        ),
        3: (
            ["(117, 96)", "'117, 96'", "[117.0, 96]", "(60_000 // 512, 60_000 % 512)"],
            ["(937, 32)", "(118, 0)", "(117, 0)", "(117.1875, 0)", "(96, 117)", "117"],
        ),
        4: (
            ["(0.75, 8.25)", "'0.75 8.25'", "[12 / 16, 8 + 4 / 16]"],
            ["(8.25, 0.75)", "(0.75, 0.75)", "(0.75, 12)", "(12, 12)", "(4.5, 8.25)", "0.75"],
        ),
    },
    "07_scaling": {
        1: (["2482", "2482.0", "'2482'"], ["2481", "2480", "2482.5", "4962", "100", "None"]),
        2: (
            ["(0.625, 0.8)", "'0.625, 0.8'", "[40 / 64, 40 / 50]"],
            ["(0.8, 0.625)", "(2.5, 3.2)", "(0.625, 1.25)", "(1.6, 0.8)", "(1, 1)", "0.625"],
        ),
        3: (
            ["lambda P, S: (1 / S - 1 / P) / (1 - 1 / P)", "lambda P, S: list((P / S - 1) / (P - 1))"],
            [
                "lambda P, S: (P - S) / (P - 1)",
                "lambda P, S: 1 / S - 1 / P",
                "lambda P, S: S / P",
                "lambda P, S: 0.1",
                "lambda P: P",
                "2",
            ],
        ),
    },
    "08_mc_uncertainty": {
        1: (
            [GAIN, f"lambda d, y: float(({GAIN})(d, y))"],
            [
                f"lambda d, y: -({GAIN})(d, y)",
                GAIN.replace("np.mean", "np.sum"),
                GAIN.replace("np.mean(", "(", 1),
                f"({GAIN})(np.ones((2, 3, 10)) / 10, np.zeros(3, int))",
                "lambda d, y: -np.mean(np.log(d.mean(axis=0)[np.arange(len(y)), y]))",
                "lambda d: 0",
            ],
        ),
        2: (
            [
                "(np.log(2), 0, np.log(2), np.log(2), np.log(2), 0)",
                "'0.69, 0, 0.69, 0.69, 0.69, 0'",
                "[0.693, 0.0, 0.693, 0.693, 0.693, 0.0]",
            ],
            ["(1, 0, 1, 1, 1, 0)", "(0.69, 0.69, 0, 0.69, 0, 0.69)", "(0.69, 0, 0.69)", "0.69", "(0, 0, 0, 0, 0, 0)"],
        ),
        3: (["180", "180.0", "'180'", "0.09 / (2 * 0.25 * 1e-3)"], ["360", "90", "45", "600", "1000", "None"]),
        4: (
            ["(0.891, 0.1)", "[0.89, 0.1]", "(0.9 * 0.99, 1 / 10)"],
            ["(0.99, 0.1)", "(89.1, 10)", "(0.891, 0.2)", "(0.9, 0.1)", "0.1", "(0.1, 0.891)"],
        ),
    },
    "09_gravitational_waves": {
        1: (
            ["27", "26.9", "'27'", f"{WEIGHED} / SUN"],
            [WEIGHED, f"{WEIGHED} / SUN / 1.09", "41", "-27", "None"],
        ),
        2: (["2", "2.0", "'2'"], ["4", "0.5", "np.sqrt(2)", "None"]),
        3: (
            [SIZE.format("w - w.max()"), SIZE.format("np.clip(w - w.max(), -700, 0)")],
            [
                SIZE.format("w"),
                SIZE.format("w.max() - w"),
                SIZE.format("0 * w"),
                SIZE.format("w - w.max()").replace("np.sum", "np.asarray"),
                "lambda p, q: 0.1 * len(p)",
                "250",
            ],
        ),
    },
    "10_batch_jobs": {
        1: (
            ["(128, 8, 16)", "['128', '8', '16']", "(16 * 8, 8, 128 / 8)"],
            ["(128, 16, 8)", "(128.9, 8.5, 16.7)", "(8, 8, 16)", "(128, 8, 8)", "(16, 8, 128)", "(256, 8, 16)", "128"],
        ),
        2: (
            ["(8, 11)", "[8.0, 11.0]", "('8', '11')"],
            ["(11, 8)", "(8.9, 11.4)", "(7, 11)", "(8, 12)", "(8, 8)", "(8, 9)", "8", "(8, None)"],
        ),
        3: (
            ["(128, 0.002)", "('128', '2e-3')", "[2 * 64, 2 * 0.001]"],
            ["(64, 0.002)", "(128, 0.001)", "(128, 0.004)", "(64, 0.001)", "0.002"],
        ),
        4: (["10", "10.0", "'10'", "np.sqrt(2 * 10 * 5 * 3600) / 60"], ["600", "7.07", "7", "17", "'often'", "None"]),
    },
    "11_baselines": {
        1: (
            ["list(METHODS)", "tuple(METHODS)", "set(METHODS)"],
            ["['deterministic', 'swag']", "[*METHODS, 'adam']", "[]", "'deterministic'", "3", "None"],
        ),
        2: (
            ["(0.85, 0.55)", "['0.85', '0.55']", "np.array([0.85, 0.55])"],
            ["(0.55, 0.85)", "(0.85, 0.85)", "(0.8, 0.55)", "(0.85, 0.45)", "0.85", "None"],
        ),
        3: (["2.59", "-2.6", "'2.59'"], ["2.9", "1.16", "1.3", "0.0007", "None"]),
    },
}


def feed(answers):
    """What the checks of notebooks reply to {notebook: {exercise: [expression]}}, or the error that ended them."""
    command = [sys.executable, "-m", "tests.support.exercises"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "BNN_QUIET": "1"}, capture_output=True, text=True, timeout=850,
        input=json.dumps({str(path): own for path, own in answers.items()}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


# Answers to no exercise, which must not end a check with an error either.
NONSENSE = ["'I do not know'", "float('nan')", "float('inf')", "1e308", "[]", "{}", "object()"]
NONSENSE += [f"({value},) * {n}" for value in ("float('nan')", "float('inf')", "None") for n in (1, 2, 3)]


def answers_of(path):
    """The right and the wrong answers, and nonsense."""
    return {n: [*right, *wrong, *NONSENSE] for n, (right, wrong) in ANSWERS.get(path.stem, {}).items()}


@pytest.fixture(scope="module")
def replies():
    return feed({path: answers_of(path) for path in WITH_CHECKS})


@each
@pytest.mark.timeout(900)
def test_checks_accept_right_answers_and_say_why_others_are_wrong(path, replies):
    given, answers, said = ANSWERS.get(path.stem, {}), answers_of(path), replies[str(path)]
    assert set(given) == set(exercises.checks(path)), "each check has answers in this file, and no others are there"
    assert isinstance(said, dict), said[-3000:]
    for n, (right, wrong) in given.items():
        assert len(right) >= 1 and len(wrong) >= 3
        for i, (expression, reply) in enumerate(zip(answers[n], said[str(n)], strict=True)):
            if i < len(right):
                assert reply.startswith("Right"), f"exercise {n} refuses {expression}: {reply}"
            else:
                assert reply.startswith("Not yet"), f"exercise {n}, answer {expression}: {reply}"
                assert len(reply) > 20, f"exercise {n} does not say why {expression} is wrong: {reply}"


@each
def test_checks_wait_for_an_answer(path):
    for n, source in exercises.checks(path).items():
        assert re.search(rf"^answer_{n} = None\b", source, re.M)
        assert re.search(rf"^if answer_{n} is not None:\n +print\(check_{n}\(answer_{n}\)\)", source, re.M)
    shown = [c for c in nbformat.read(path, 4).cells if "check" in c.metadata.get("tags", ()) and c.outputs]
    assert not shown


def test_no_answers_are_kept_for_notebooks_that_are_gone():
    assert set(ANSWERS) <= {path.stem for path in CHAPTERS}


def test_only_the_cells_that_checks_need_are_run(tmp_path):
    """The runner finds names within functions and changes of objects, and leaves the rest out."""
    code = [
        "%%px\nnot_python",
        "import math\nlimits = {}",
        "limits['low'] = 2",
        "def root(value):\n    return math.sqrt(value)",
        "limits = dict(limits)",
        "raise SystemExit('this cell trains for hours')",
        "def clear():\n    math.fsum([])\n\n\nraise SystemExit('a call of a module changes nothing that checks need')",
        "unused = 1 / 0",
    ]
    check = """answer_1 = None


def check_1(answer):
    return "Right." if root(answer) > limits["low"] else "Not yet: " + str(answer)


if answer_1 is not None:
    print(check_1(answer_1))"""
    cells = [v4.new_code_cell(source) for source in code] + [v4.new_code_cell(check, metadata={"tags": ["check"]})]
    path = tmp_path / "own.ipynb"
    nbformat.write(v4.new_notebook(cells=cells), path)
    assert exercises.checks(path) == {1: check}
    (said,) = feed({path: {1: ["5", "3", "'text'", "math.pi**2"]}}).values()
    assert said["1"][:2] == ["Right.", "Not yet: 3"] and said["1"][3] == "Right."
    assert said["1"][2].startswith("TypeError")
