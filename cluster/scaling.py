"""Measure a scaling study: every model at every number of ranks, the all-reduce alone, and Horovod's settings.

    python -m cluster.scaling --ranks 1 2 4 --output build/scaling

starts `helpers.step_times` for one number of ranks after another, with the launcher of this machine or of the job
around it. Notebook 07 reads the folder.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from cluster import launcher
from cluster import supervise as leash
from helpers import ROOT

from tqdm import tqdm

MODELS = ("BNN_conv_flip", "CNN_conv", "CIFAR10_BNN_model", "CIFAR10_CNN_model")
SIZES = (1_000, 10_000, 100_000, 1_000_000, 4_000_000)  # float32 numbers in one all-reduce
SETTINGS = {  # a word for the table: (flags, environment)
    "fp16": (["--fp16"], {}),
    "every-5": (["--every=5"], {}),
    "cycle-5ms": ([], {"HOROVOD_CYCLE_TIME": "5"}),
    "cycle-20ms": ([], {"HOROVOD_CYCLE_TIME": "20"}),
    "no-fusion": ([], {"HOROVOD_FUSION_THRESHOLD": "0"}),
}


def measurement(parser):
    """Give the parser the options that say what each launch measures."""
    parser.add_argument("--models", nargs="+", default=MODELS, help="of the catalogue")
    parser.add_argument("--batch_size", type=int, default=64, help="weak scaling: examples a step on each rank")
    parser.add_argument("--global_batch", type=int, default=128, help="strong scaling: examples a step on all ranks")
    parser.add_argument("--rounds", type=int, default=15, help="repetitions of each point")
    parser.add_argument("--steps", type=int, default=10, help="steps in each")


def launches(options):
    """The study as a list of (ranks, words for `helpers.step_times`, environment)."""
    common = ["--models", *options.models, f"--batch_size={options.batch_size}", f"--rounds={options.rounds}"]
    common += [f"--steps={options.steps}", f"--output={options.output}"]
    sizes = ["--sizes", *map(str, SIZES)]
    study = [(ranks, [*common, f"--global_batch={options.global_batch}", *sizes], {}) for ranks in options.ranks]
    for setting, (words, environment) in SETTINGS.items() if options.settings_at else ():
        study.append((options.settings_at, [*common, f"--setting={setting}", *words], environment))
    return study


def run(command, environment, timeout):
    """Run one launch; the end of what it said if it failed, else None. Nothing of it outlives this call."""
    process = subprocess.Popen(
        [*leash.command(ROOT), *command], cwd=ROOT, env={**os.environ, **environment}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        said = process.communicate(timeout=timeout)[1]
        return said.strip()[-1500:] or f"exit status {process.returncode}" if process.returncode else None
    except subprocess.TimeoutExpired:
        return f"not done within {timeout} seconds (--timeout)"
    finally:
        process.terminate()
        process.communicate()


def main(arguments=None):
    """Measure the study; the exit status is 1 if a launch failed."""
    parser = argparse.ArgumentParser(prog="python -m cluster.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="how many, one after the other")
    measurement(parser)
    parser.add_argument("--settings_at", type=int, default=2, help="ranks to try Horovod's settings on; 0: none")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds for one launch")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "scaling", help="folder for the CSV files")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and start none")
    options = parser.parse_args(arguments)
    if min(options.ranks) < 1 or options.global_batch < max(options.ranks):
        parser.error("--ranks must be 1 or more, and --global_batch an example or more for each")
    if launcher.program() is None:
        parser.error(f"{launcher.name()} is not on the PATH")
    failed = 0
    for ranks, words, extra in tqdm(launches(options), desc="launches", disable=None):
        environment = launcher.environment() | extra
        command = launcher.command(ranks, sys.executable, "-m", "helpers.step_times", *words)
        if options.dry_run:
            print(shlex.join([*(f"{key}={value}" for key, value in extra.items()), *command]))
            continue
        failure = run(command, environment, options.timeout)
        if failure:
            failed += 1
            print(f"{ranks} ranks, {' '.join(words)}: {failure}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
