"""The flags of the training command: their names, old names, defaults and help.

The values of single flags are checked here. What several flags mean together is decided in `choices`.
"""

from helpers import models
from helpers.data.catalogue import DATASETS
from helpers.train.flagfile import arguments

from absl import flags


class _Flags(flags.FlagValues):
    """Flags whose flagfiles are read as people edit them."""

    def read_flags_from_files(self, argv, force_gnu=True):
        return arguments(argv)


FLAGS = _Flags()
GROUPS: dict[str, list] = {}  # {group: [(name, old names)]}, in the order of the help


class _Choice(flags.ArgumentParser):
    """One of a few words, in any case, with or without the signs '-' and '_'."""

    def __init__(self, choices):
        super().__init__()
        self.choices = {self._plain(choice): choice for choice in choices}

    @staticmethod
    def _plain(word):
        return word.lower().replace("-", "").replace("_", "")

    def parse(self, argument):
        word = None if argument is None else self._plain(str(argument).strip().strip("'\"").strip())
        if word is None or word in self.choices:
            return None if word is None else self.choices[word]
        raise ValueError(f"choose one of: {', '.join(self.choices.values())}")


class _Number(flags.FloatParser):
    """A number that float32 can hold. Without this check NaN would pass all limits."""

    def convert(self, argument):
        value = super().convert(argument)
        if not abs(value) <= 1e30:
            raise ValueError("expected a number, of at most 1e30")
        return value


def _define(group, kind, name, default, help, old=(), **limits):
    """Add a flag to a group, with the names that it has in older flagfiles and the limits of its values."""
    parsers = {"text": flags.ArgumentParser, "choice": _Choice, "bool": flags.BooleanParser}
    parsers |= {"int": flags.IntegerParser, "float": _Number}
    flag = flags.BooleanFlag(name, default, help) if kind == "bool" else flags.Flag(
        parsers[kind](**limits), flags.ArgumentSerializer(), name, default, help
    )  # fmt: skip
    flags.DEFINE_flag(flag, FLAGS)
    for alias in old:
        flags.DEFINE_alias(alias, name, flag_values=FLAGS)
    GROUPS.setdefault(group, []).append((name, old))


_define("Model", "choice", "model", None, "the model by its name; None: by the three flags below. "
        + ". ".join(f"{name}: {models.record(name).help}" for name in models.NAMES), choices=models.NAMES)  # fmt: skip
_define("Model", "choice", "model_type", "BNN", "Bayesian or deterministic", ["Model_type"], choices=("BNN", "CNN"))
_define("Model", "choice", "bnnConv", None, "the model if model_type is BNN; None: BNN_conv_flip, or with "
        "CIFAR-10 CIFAR10_BNN_model", choices=models.BAYESIAN)  # fmt: skip
_define("Model", "choice", "cnnConv", None, "the model if model_type is CNN; None: CNN_conv, or with "
        "CIFAR-10 CIFAR10_CNN_model", choices=models.DETERMINISTIC)  # fmt: skip
_define("Data", "choice", "dataset", None, "the data set; None: cifar10 for the CIFAR10 models, else mnist",
        ["DATA_NAME"], choices=tuple(DATASETS))  # fmt: skip
_define("Data", "text", "data_dir", None, "the file or folder of the data set; None: $BNN_DATA_DIR, or data/",
        ["DATA_PATH"])  # fmt: skip
_define(
    "Data",
    "text",
    "map_data_in",
    None,
    "a folder on a disk or in the memory of each node, such as /dev/shm, in "
    "which the ranks of a node share one copy of the data set; None: each rank reads and holds its own",
)
_define(
    "Data",
    "bool",
    "subtract_pixel_mean",
    False,
    "subtract the training set's mean image, for which each rank holds images of its own",
)
_define("Data", "int", "validation_examples", 1000, "the last so many training examples, held out for "
        "--eval_freq if that is on", lower_bound=1)  # fmt: skip
_define("Training", "int", "batch_size", 64, "examples a step on each rank", lower_bound=1)
_define("Training", "int", "epochs", 5, "epochs to train for", lower_bound=1)
_define("Training", "int", "iterations", None, "steps to train for, divided by the number of ranks", ["iteration"],
        lower_bound=1)  # fmt: skip
_define("Training", "bool", "use_epochs", None, "count by epochs (true) or by iterations (false); None: by "
        "iterations if these alone are given", ["UseEpoch", "USE_EPOCH"])  # fmt: skip
_define("Training", "float", "learning_rate", 1e-3, "Adam's learning rate on one rank", lower_bound=0.0)
_define("Training", "choice", "scale_learning_rate", "linear", "with the number of ranks: linear, sqrt or none",
        choices=("linear", "sqrt", "none"))  # fmt: skip
_define("Training", "choice", "decay", "none", "of the learning rate over the run: none, or cosine down to zero",
        choices=("none", "cosine"))  # fmt: skip
_define("Training", "bool", "augment", False, "shift the training images by up to 4 pixels and mirror half of them")
_define("Training", "text", "init_from", None, "folder of a run of the deterministic twin, whose weights become the "
        "means of posteriors and priors (MOPED)")  # fmt: skip
_define("Training", "float", "prior_scale", 1.0, "standard deviation of those priors", lower_bound=0.0)
_define("Training", "float", "delta", 0.1, "standard deviation of those posteriors at the start, as a share of the "
        "weight", lower_bound=0.0)  # fmt: skip
_define("Training", "float", "kl_regularizer", 1.0, "final weight of the KL, in (0, 1]", lower_bound=0.0,
        upper_bound=1.0)  # fmt: skip
_define("Training", "float", "kl_annealing_epochs", 0.0, "epochs over which that weight rises from 0",
        lower_bound=0.0)  # fmt: skip
_define("Training", "int", "seed", 0, "of initial weights, order of examples and weight noise", lower_bound=0,
        upper_bound=2**32 - 1)  # fmt: skip
_define("Training", "choice", "mixed_precision", "none", "compute in half precision, with float32 parameters and KL: "
        "none, float16 or bfloat16", choices=models.PRECISIONS)  # fmt: skip
_define("Training", "bool", "compression", False, "send gradients as float16")
_define("Training", "bool", "elastic", False, "go on with the others when ranks are lost, and with more when some are "
        "added; see helpers/train/elastic.py")  # fmt: skip
_define("Evaluation", "int", "num_monte_carlo", 50, "draws of the weights for the predictive distribution",
        lower_bound=1)  # fmt: skip
_define("Evaluation", "int", "eval_freq", 0, "steps between evaluations on held-out training examples; 0: none",
        lower_bound=0)  # fmt: skip
_define("Output", "text", "output", None, "the run is kept in this folder, under the model's name; None: build/runs",
        ["model_data", "model_dir"])  # fmt: skip
_define("Output", "bool", "resume", False, "go on from the run's last checkpoint, if there is one")
_define("Output", "bool", "overwrite", False, "remove a run that is there already, and no other file")
_define("Output", "int", "checkpoint_every", None, "steps between checkpoints; None: an epoch", lower_bound=1)
_define("Output", "int", "print_step", 0, "steps between lines of progress; 0: the bar alone", lower_bound=0)
_define("Output", "bool", "plotting", False, "draw the weight posteriors as PNG, before training and after each epoch")
_define("Output", "bool", "verbose", False, "print the flags and the model's layers first")
_define("Threads", "int", "num_intra", 0, "threads within one operation, at most the cores there are; 0: one a "
        "rank under MPI, all cores alone", lower_bound=0)  # fmt: skip
_define("Threads", "int", "num_inter", 0, "operations at a time, at most the cores; 0: as num_intra", lower_bound=0)
_define("Threads", "int", "kmp_blocktime", None, "KMP_BLOCKTIME, milliseconds; for builds that use Intel's OpenMP",
        lower_bound=0)  # fmt: skip
_define("Threads", "text", "kmp_affinity", None, "KMP_AFFINITY, likewise")
_define("Help", "bool", "help", False, "print this")


STATUSES = """SIGTERM or SIGUSR1 stops a run: all ranks finish the same step, save a checkpoint and end with status 75.
Exit status: 0 trained and evaluated, 1 failed, 2 bad flags, 75 stopped at a checkpoint, 128 and the signal's number if
a signal came while no step was trained, came twice, or found no step that ended within 60 seconds."""


def help_text() -> str:
    """Return a text with all flags by group, their old names and defaults, and the meaning of signals and statuses."""
    lines = ["usage: python -m helpers.train [--flagfile=FILE] [--flag=value ...]", ""]
    for group, members in GROUPS.items():
        lines.append(f"{group}:")
        for name, old in members:
            names = ", ".join(f"--{n}" for n in (name, *old))
            lines += [f"  {names}", f"      {FLAGS[name].help} (default: {FLAGS[name].default})"]
        lines.append("")
    return "\n".join([*lines, STATUSES, ""])
