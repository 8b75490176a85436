"""Measure a scaling study: every model on every number of ranks, the all-reduce alone, and Horovod's settings.

    python -m cluster.scaling --ranks 1 2 4 --output build/scaling

runs `helpers.step_times` on one number of ranks after another. It uses the launcher of this machine, or of the job in
which it runs. Notebook 07 reads the CSV files in the output folder.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from cluster import launcher, supervise
from helpers import ROOT

from tqdm import tqdm

MODELS = ("BNN_conv_flip", "CNN_conv", "CIFAR10_BNN_model", "CIFAR10_CNN_model")
SIZES = (1_000, 10_000, 100_000, 1_000_000, 4_000_000)  # float32 numbers in one all-reduce
SETTINGS = {  # name in the table: (flags, environment variables)
    "again": ([], {}),  # the default settings in another launch: how far two measurements of the same thing differ
    "mpi": (["--mpi"], {}),  # MPI's own all-reduce, without Horovod
    "cycle-0.1ms": ([], {"HOROVOD_CYCLE_TIME": "0.1"}),
    "cycle-1ms": ([], {"HOROVOD_CYCLE_TIME": "1"}),
    "cycle-5ms": ([], {"HOROVOD_CYCLE_TIME": "5"}),
    "cycle-20ms": ([], {"HOROVOD_CYCLE_TIME": "20"}),
    "fp16": (["--fp16"], {}),
    "every-5": (["--every=5"], {}),
    "no-fusion": ([], {"HOROVOD_FUSION_THRESHOLD": "0"}),
}
WITH_SIZES = ("mpi", "cycle-0.1ms", "cycle-1ms", "cycle-5ms")  # settings for which the all-reduce is timed alone, too
_LAST_CHARACTERS = 1500  # of the output of a failed launch that are shown


def add_measurement_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what each launch measures."""
    parser.add_argument("--models", nargs="+", default=MODELS, help="names from the catalogue of models")
    parser.add_argument("--batch_size", type=int, default=64, help="weak scaling: examples per step on each rank")
    parser.add_argument("--global_batch", type=int, default=256, help="strong scaling: examples per step on all ranks")
    parser.add_argument("--rounds", type=int, default=15, help="repetitions of each measurement")
    parser.add_argument("--steps", type=int, default=10, help="steps in each repetition")
    known = list(SETTINGS)
    parser.add_argument("--settings", nargs="*", default=known, choices=known, help="Horovod's settings to measure")


def launches(options: argparse.Namespace) -> list[tuple[int, list[str], dict[str, str]]]:
    """List the launches of the study.

    Args:
      options: those of `add_measurement_options`, and `ranks` (list of numbers of ranks), `settings_at` (number of
        ranks for Horovod's settings, 0 for none) and `output` (folder).

    Returns:
      For each launch the number of ranks, the arguments of `helpers.step_times`, and its environment variables.
    """
    common = ["--models", *options.models, f"--batch_size={options.batch_size}", f"--rounds={options.rounds}"]
    common += [f"--steps={options.steps}", f"--output={options.output}"]
    sizes = ["--sizes", *map(str, SIZES)]
    study: list[tuple[int, list[str], dict[str, str]]] = [
        (ranks, [*common, f"--global_batch={options.global_batch}", *sizes], {}) for ranks in options.ranks
    ]
    for setting in options.settings if options.settings_at else ():
        words, environment = SETTINGS[setting]
        timed = sizes if setting in WITH_SIZES else []
        study.append((options.settings_at, [*common, f"--setting={setting}", *timed, *words], environment))
    return study


def run(command: list[str], environment: dict[str, str], timeout: float) -> str | None:
    """Run one launch. None of its processes outlives this call.

    Args:
      command: the launcher's command.
      environment: variables in addition to this process's.
      timeout: seconds after which the launch is ended.

    Returns:
      None if the launch succeeded, and else the reason: the end of its error output, or that it took too long.
    """
    process = subprocess.Popen(
        [*supervise.command(ROOT), *command], cwd=ROOT, env={**os.environ, **environment}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        errors = process.communicate(timeout=timeout)[1]
        if not process.returncode:
            return None
        return errors.strip()[-_LAST_CHARACTERS:] or f"exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        return f"not done within {timeout} seconds (--timeout)"
    finally:
        process.terminate()
        process.communicate()


def main(arguments: list[str] | None = None) -> int:
    """Measure the study.

    Args:
      arguments: words of the command line, None for `sys.argv`.

    Returns:
      The exit status: 0, or 1 if a launch failed.
    """
    parser = argparse.ArgumentParser(prog="python -m cluster.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="numbers of ranks, measured in turn")
    add_measurement_options(parser)
    parser.add_argument("--settings_at", type=int, default=2, help="number of ranks for Horovod's settings; 0: none")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds that one launch may take")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "scaling", help="folder for the CSV files")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and start none")
    options = parser.parse_args(arguments)
    if min(options.ranks) < 1 or options.global_batch < max(options.ranks):
        parser.error("--ranks must be 1 or more, and --global_batch must have at least one example for each rank")
    if launcher.program() is None:
        parser.error(f"{launcher.name()} is not on the PATH")
    failed = 0
    for ranks, words, variables in tqdm(launches(options), desc="launches", disable=None):
        command = launcher.command(ranks, sys.executable, "-m", "helpers.step_times", *words)
        if options.dry_run:
            print(shlex.join([*(f"{key}={value}" for key, value in variables.items()), *command]))
            continue
        failure = run(command, launcher.environment() | variables, options.timeout)
        if failure:
            failed += 1
            print(f"{ranks} ranks, {' '.join(words)}: {failure}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
