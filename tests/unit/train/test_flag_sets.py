"""The training command with sets of flags, drawn at random: it trains, or says in one line what is wrong."""

import contextlib
import io
import json
import math
import os
import re
import shutil

from helpers import models
from helpers.data.catalogue import DATASETS
from helpers.data.readers import KEYS
from helpers.files import read_csv
from helpers.train import command as train
from helpers.train import flags

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.damage import MORE, digest, examples, images, small_data_sets

pytestmark = pytest.mark.timeout(900 * MORE)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the data sets, with files that flags must not name, and with a finished run of CNN_FC."""
    patch = small_data_sets()
    folder = tmp_path_factory.mktemp("flags")
    (folder / "data").mkdir()
    for name in DATASETS:
        np.savez(folder / "data" / f"{name}.npz", **dict(zip(KEYS, images(name), strict=True)))
    (folder / "file").write_text("no data set, no run, no folder")
    (folder / "binary.cfg").write_bytes(b"--epochs=1\n\xff\xfe\x00")
    (folder / "finished").mkdir()
    status, said = command(f"--data_dir={folder / 'data'}", f"--output={folder / 'finished'}", "--model=CNN_FC",
                           "--iterations=2", "--batch_size=10", "--num_monte_carlo=1")  # fmt: skip
    assert status == 0, said
    yield folder
    patch.undo()


def command(*arguments):
    """The training command's status, and what it wrote to stderr. Its flags and variables are as before."""
    said = io.StringIO()
    variables = dict(os.environ)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            status = train.main([str(argument) for argument in arguments])
    finally:
        for name in flags.FLAGS:
            flags.FLAGS[name].unparse()
        flags.FLAGS.unparse_flags()
        for name in set(os.environ) - set(variables):
            del os.environ[name]
    return status, said.getvalue()


FINE = {
    "model": ["CNN_FC", "cnn-fc", "BNN_FC_flip", "bnn_fc_NONFLIP", "'BNN_FC_flip'", " CNN_FC "],
    "model_type": ["BNN", "cnn"],
    "dataset": ["mnist", "CIFAR-10", "fashion_mnist"],
    "batch_size": ["1", "10", "30"],
    "iterations": ["1", "2", "3"],
    "use_epochs": ["false"],
    "learning_rate": ["0", "0.001", "1e-2", "1e-300"],
    "scale_learning_rate": ["linear", "SQRT", "none"],
    "decay": ["none", "cosine"],
    "augment": ["true", "False"],
    "subtract_pixel_mean": ["1", "0"],
    "kl_regularizer": ["1", "0.5", "1e-9"],
    "kl_annealing_epochs": ["0", "2.5", "1e9"],
    "seed": ["0", "1", "4294967295"],
    "num_monte_carlo": ["1", "3", "33"],
    "eval_freq": ["0", "1", "1000000"],
    "validation_examples": ["1", "20"],
    "print_step": ["0", "1", "7"],
    "checkpoint_every": ["1", "2", "1000"],
    "prior_scale": ["0", "2"],
    "compression": ["true"],
    "verbose": ["true", "f"],
    "num_intra": ["0"],
    "kmp_blocktime": ["0"],
    "kmp_affinity": ["'granularity=fine,verbose,compact,1,0'", ""],
    "init_from": [""],
    "undefok": ["nothing"],
}
OLD = {
    "model_type": ["Model_type"],
    "dataset": ["DATA_NAME"],
    "iterations": ["iteration"],
    "use_epochs": ["UseEpoch", "USE_EPOCH"],
    "output": ["model_data", "model_dir"],
    "data_dir": ["DATA_PATH"],
}
# What makes a set of flags wrong, and how the one line must name it. {0} is the folder of the fixture.
FAULTS = {
    **{f"--epochs={value}": "epochs" for value in ("0", "-1", "1.5", "three", "")},
    **{f"--batch_size={value}": "batch" for value in ("0", "61", "1000000000000000000000")},
    **{f"--learning_rate={value}": "learning_rate" for value in ("nan", "-inf", "1e39", "-1e-3", "fast")},
    "--learning_rate=1e30 --iterations=3": "learning rate",
    **{f"--kl_regularizer={value}": "kl_regularizer" for value in ("1.5", "-0.1", "nan")},
    **{f"--kl_annealing_epochs={value}": "kl_annealing_epochs" for value in ("inf", "-1")},
    **{f"--seed={value}": "seed" for value in ("-1", "4294967296", "1e3")},
    **{f"--num_monte_carlo={value}": "num_monte_carlo" for value in ("0", "many")},
    "--eval_freq=1 --validation_examples=1000": "validation_examples",
    "--validation_examples=0": "validation_examples",
    **{f"--model={value}": "BNN_FC_flip, BNN_FC_nonflip" for value in ("BNN_FC", "", "CNN FC")},
    "--bnnConv=CNN_conv": "bnnConv",
    "--cnnConv=BNN_conv_flip": "cnnConv",
    "--dataset=imagenet": "mnist, cifar10, fashion_mnist",
    "--data_dir={0}/nowhere": "nowhere",
    "--data_dir={0}/file": "file: .* is read from a folder",
    "--use_epochs=perhaps": "use_epochs|UseEpoch|USE_EPOCH",
    "--scale_learning_rate=cubic": "linear, sqrt, none",
    "--decay=1": "none, cosine",
    "--augment=2": "augment",
    "--init_from={0}/nowhere --model=BNN_FC_flip": "nowhere holds no checkpoint",
    "--init_from={0}/finished/CNN_FC --model=CNN_FC": "CNN_FC is not Bayesian",
    "--init_from={0}/finished/CNN_FC --model=BNN_FC_flip --dataset=mnist --prior_scale=0": "prior_scale",
    "--init_from={0}/finished/CNN_FC --model=BNN_FC_flip --dataset=cifar10": "does not fit the model",
    "--print_step=-5": "print_step",
    "--checkpoint_every=0": "checkpoint_every",
    "--num_intra=-1": "num_intra",
    "--kmp_blocktime=soon": "kmp_blocktime",
    "--output={0}/file": "file",
    "--output=/dev/null": "/dev/null",
    "--flagfile={0}/nowhere.cfg": "nowhere.cfg",
    "--flagfile={0}": "flagfile",
    "--flagfile={0}/binary.cfg": "decode|utf",
    "--resume --overwrite": "--resume .* --overwrite",
    "--epoch=3": "epoch",
    "--modle=CNN_FC": "modle",  # codespell:ignore
    "--\u00e9pochs=3": "\u00e9pochs",
    "mnist": "--name=value",
    "-": "--name=value",
    "--=3": "flag",
    "--nomodel": "nomodel|model",
    "--iterations": "iterations",
}


@st.composite
def sets(draw):
    """(arguments, the faults among them, whether a finished run is there, whether they come as a flagfile)."""
    chosen = draw(st.dictionaries(st.sampled_from(sorted(FINE)), st.integers(0, 9), max_size=8))
    faults = draw(st.sampled_from([0, 1, 1, 1, 1, 1, 2, 3]))
    faults = draw(st.lists(st.sampled_from(sorted(FAULTS)), min_size=faults, max_size=faults, unique=True))
    arguments = ["--batch_size=10", "--iterations=1", "--num_monte_carlo=1", "--validation_examples=20"]
    for name, number in chosen.items():
        names = [name, *OLD.get(name, [])]
        arguments.append(f"--{names[number % len(names)]}={FINE[name][number % len(FINE[name])]}")
    there = draw(st.sampled_from(["nothing", "nothing", "a run", "a run and --overwrite", "a run and --resume"]))
    arguments += [f"--{there.rpartition('--')[2]}"] if "--" in there else []
    return arguments, faults, there, draw(st.booleans())


@pytest.mark.slow
@examples(100)
@given(asked=sets())
def test_a_set_of_flags_trains_or_is_refused_in_one_line(place, tmp_path_factory, asked):
    arguments, faults, there, in_file = asked
    folder = tmp_path_factory.mktemp("asked")
    if there != "nothing":
        shutil.copytree(place / "finished", folder, dirs_exist_ok=True)
        arguments = [*arguments, "--model=CNN_FC"]
    before = digest(folder)
    if in_file:
        # Quotes and blanks are what the older tutorial's flagfiles had.
        (place / "inner.cfg").write_text("# a part\n" + "\n".join(arguments) + f" \n--model_dir='{folder}'\n")
        (place / "outer.cfg").write_text(f"\n--flagfile={place / 'inner.cfg'}\n")
        arguments = [f"--flagfile={place / 'outer.cfg'}"]
    arguments += [f"--data_dir={place / 'data'}", f"--model_dir={folder}"]
    wrong = [word.format(place) for fault in faults for word in fault.split()]
    # A flag without its value takes the next word for it, and swallows it.
    wrong.sort(key=lambda word: word == "--iterations")
    status, said = command(*arguments, *wrong)

    lines = [line for line in said.splitlines() if line.startswith("helpers.train: ")]
    if there == "a run" and not faults:
        assert status == 1 and len(lines) == 1 and "holds a run already" in lines[0]
    elif faults:
        assert status in (1, 2) and len(lines) == 1, said
        expected = [FAULTS[fault] for fault in faults] + ["holds a run already"] * (there == "a run")
        expected += ["its run had", "--resume .* --overwrite"] if "--resume" in there + " ".join(wrong) else []
        assert re.search("|".join(expected), lines[0]), (lines[0], expected)
    elif there == "a run and --resume" and status:
        assert status == 1 and len(lines) == 1 and "its run had" in lines[0]
    else:
        assert status == 0 and not lines, said
        (made,) = (path for path in folder.iterdir() if path.is_dir())
        assert_sound(made, arguments if not in_file else (place / "inner.cfg").read_text().split("\n"))
    diverged = any("1e30" in fault for fault in faults) and ("overwrite" in there + " ".join(wrong))
    if status and not diverged:
        after = digest(folder)
        assert {path: after.get(path) for path in before} == before, "something was lost"


def assert_sound(folder, arguments):
    """The run in the folder is whole, and what its flags asked for."""

    def refuse(constant):
        raise AssertionError(f"{constant} in a summary")

    summary = json.loads((folder / "summary.json").read_text(), parse_constant=refuse)
    assert set(summary["test"]) == {"accuracy", "nll", "brier", "ece"}
    assert all(math.isfinite(value) for value in summary["test"].values()) and 0 <= summary["test"]["accuracy"] <= 1
    asked = dict(re.findall(r"--(\w+)=([^\n]*)", "\n".join(arguments)))
    assert summary["model"] == folder.name in models.NAMES
    if "model" in asked:
        assert summary["model"] == models.canonical(asked["model"].strip(" '").replace("-", "_"))
    iterations = [int(number) for number in re.findall(r"--iterations?=(\d+)", "\n".join(arguments))]
    steps = read_csv(folder / "steps.csv")
    assert steps[-1]["step"] == sum(row["steps"] for row in steps) == summary["training"]["step"]
    assert summary["training"]["step"] == iterations[-1] or "resume" in str(arguments)
    assert folder.stat().st_mode & 0o077 == 0
