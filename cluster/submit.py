"""Submit the notebooks' batch run, or the training command, to a scheduler: Cobalt, PBS, Slurm, or this machine.

    python -m cluster.submit notebooks --nodes 2 --ranks-per-node 4 --time 0:30:00 -- --only 06 --profile full
    python -m cluster.submit train --nodes 2 --ranks-per-node 4 --dry-run -- --flagfile=cluster/flags/mnist_bnn.cfg
    python -m cluster.submit status 1234
    python -m cluster.submit cancel 1234

The arguments after -- go to the command, which runs in the course's folder. --dry-run prints the script that would be
submitted, or on this machine the command. It submits nothing and writes no file.

Exit status: 0 means success, 1 that the job failed, ran out of time, was cancelled or stopped at a checkpoint, 2 that
nothing could be done, and 3 that the job had not ended after the seconds of --wait.
"""

import argparse
import contextlib
import io
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from cluster.jobs import attributes, scripts, states
from cluster.jobs.states import JobError
from helpers import ROOT, files

_LOOK = (0.5, 15.0)  # seconds between looks at a job: the first pause, and the longest
_ATTRIBUTES = """any other option of the scheduler, by its long name for Slurm and Cobalt and by its letter for PBS:
qos=debug or requeue (Slurm), attrs=mcdram=cache:numa=quad (Cobalt), r=y or l=naccelerators=0 (PBS); select=mem=64gb
(PBS) is added to each chunk"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
      arguments: The command line. None takes that of the process.
    """
    options = _parse(arguments)
    try:
        if options.what == "status":
            return _report(*states.find(options.id))
        if options.what == "cancel":
            return _cancel(*states.find(options.id))
        return _submit(options)
    except JobError as error:
        print(f"cluster.submit: {error}", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"cluster.submit: {message} (--help lists all options)\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="python -m cluster.submit", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="what", required=True)
    for what, text in {"notebooks": "cluster.run_notebooks", "train": "helpers.train on all ranks"}.items():
        command = commands.add_parser(what, help=f"submit {text}")
        add = command.add_argument
        add("--scheduler", choices=states.PROGRAMS, help="scheduler (the one whose commands are found here, or local)")
        add("--nodes", type=_positive, default=1, help="number of nodes (1)")
        add("--ranks-per-node", type=_positive, default=2, help="MPI ranks on each node (2)")
        add("--threads", type=_positive, default=1, help="threads of each rank (1)")
        add(
            "--time",
            type=_seconds,
            default="0:30:00",
            help="time limit as H:MM:SS, H:MM or minutes, or D-HH:MM:SS with days (0:30:00)",
        )
        add("--queue", help="queue, or Slurm's partition")
        add("--account", help="account or project that is charged")
        add("--exclusive", action="store_true", help="whole nodes, shared with no other job (Slurm, PBS)")
        add("--filesystems", metavar="NAMES", help="file systems that the job needs, as home:eagle (PBS at the ALCF)")
        add("--system", metavar="NAME", help="whole nodes of this machine, as polaris (PBS at the ALCF)")
        add("--array", type=_refused, help=argparse.SUPPRESS)
        add("--attribute", action="append", default=[], metavar="NAME[=VALUE]", help=_ATTRIBUTES)
        add("--dry-run", action="store_true", help="print what would be submitted, and write no file")
        add("--wait", type=float, metavar="SECONDS", help="wait for the job's end, but not longer than this")
        add("rest", nargs="*", metavar="-- ARGUMENT", help="arguments of the command")
    for what in ("status", "cancel"):
        commands.add_parser(what, help=f"{what} of a job").add_argument("id", help="number of the job")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text!r}")
    return int(text)


def _refused(text: str) -> NoReturn:
    raise argparse.ArgumentTypeError(attributes.NO_ARRAY)


def _seconds(text: str) -> int:
    """Return a time limit in seconds. With days, the number after the dash is hours, as in Slurm's D-HH."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::([0-5]?\d))?(?::([0-5]\d))?", text)
    days, first, second, third = match.groups() if match else (None, "0", None, None)
    if days is None and second is None:
        total = 60 * int(first)
    else:
        total = 86400 * int(days or 0) + 3600 * int(first) + 60 * int(second or 0) + int(third or 0)
    if not total:
        raise argparse.ArgumentTypeError(f"expected H:MM:SS, H:MM or minutes, found {text!r}")
    return total


def _submit(options: argparse.Namespace) -> int:
    options.scheduler = options.scheduler or states.here()
    folder = states.FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{options.what}-{uuid.uuid4().hex[:6]}"
    if options.what == "notebooks":
        _check(options.rest)
    if options.dry_run:
        print(scripts.script(options, folder), end="")
        return 0
    record = {"scheduler": options.scheduler, "seconds": options.time, "submitted": time.time()}
    record["id"] = scripts.submit(options, folder)
    name = f"{record['scheduler']} job {record['id']}"
    try:
        files.write(folder / "job.json", f"{json.dumps(record)}\n")
    except OSError as error:
        raise JobError(
            f"{name} is submitted, but {error.filename} cannot be written ({error.strerror}), so `status` and `cancel` "
            "will not find the job. Use the scheduler's own commands for it"
        ) from error
    print(f"{name} submitted; its output: {_near(folder / 'output.txt')}", flush=True)
    try:
        return 0 if options.wait is None else _wait(record, folder, options.wait)
    except KeyboardInterrupt:
        print(f"The job continues. To end it: python -m cluster.submit cancel {record['id']}")
        return 3


def _check(words: Sequence[str]) -> None:
    """Let the parser of cluster.run_notebooks judge its arguments now, and not after hours in a queue.

    The training command's flags cannot be checked in this way, because they come with TensorFlow.
    """
    from cluster import run_notebooks  # here, because it brings in papermill

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            run_notebooks.parse(words)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        reason = said.getvalue().strip().rpartition(" error: ")[2]
        raise JobError(f"cluster.run_notebooks refuses the arguments after --: {reason}") from None


def _wait(record: dict[str, Any], folder: Path, limit: float) -> int:
    until = time.monotonic() + limit
    pause = _LOOK[0]
    while not (now := states.state(record, folder)).ended:
        if time.monotonic() > until:
            print(f"{record['scheduler']} job {record['id']}: still {now.word} after {limit:g} seconds (--wait)")
            return 3
        time.sleep(min(pause, max(0, until - time.monotonic()) + 0.1))
        pause = min(1.5 * pause, _LOOK[1])
    return _report(record, folder)


def _report(record: dict[str, Any], folder: Path) -> int:
    """Print a job's state, and the last lines of its output if it did not succeed. Return the exit status."""
    now = states.state(record, folder)
    detail = f" ({now.detail})" if now.detail else ""
    print(f"{record['scheduler']} job {record['id']}: {now.word}{detail}; its output: {_near(folder / 'output.txt')}")
    if not now.ended or now.word == states.DONE:
        return 0
    for path in (folder / "launch.txt", folder / "output.txt"):
        if path.is_file():
            lines = path.read_text(errors="replace").splitlines()[-5:]
            print(*(f"  {line}" for line in lines), sep="\n", end="\n" if lines else "")
    return 1


def _cancel(record: dict[str, Any], folder: Path) -> int:
    """End a job and report its state within some seconds. The state of a job that has already ended stays as it is."""
    if not states.state(record, folder).ended:
        (folder / "cancelled").touch()
        try:
            scripts.cancel(record, folder)
        except JobError:
            # The job continues, and must not be reported as cancelled when it ends in another way.
            (folder / "cancelled").unlink()
            raise
        until = time.monotonic() + states.ANSWER
        while not states.state(record, folder).ended and time.monotonic() < until:
            time.sleep(_LOOK[0])
    _report(record, folder)
    return 0


def _near(path: Path) -> str | Path:
    """Return the path relative to the working directory, if it lies in the course's folder or below this directory."""
    return os.path.relpath(path) if path.is_relative_to(ROOT) or path.is_relative_to(os.getcwd()) else path


if __name__ == "__main__":
    sys.exit(main())
