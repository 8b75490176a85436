"""Send the notebooks' batch run, or the training command, to a scheduler: Cobalt, PBS, Slurm, or this machine.

    python -m cluster.submit notebooks --nodes 2 --ranks-per-node 4 --time 0:30:00 -- --only 06 --profile full
    python -m cluster.submit train --nodes 2 --ranks-per-node 4 --dry-run -- --flagfile=cluster/flags/mnist_bnn.cfg
    python -m cluster.submit status 1234
    python -m cluster.submit cancel 1234

What stands behind -- goes to the command, which runs in the course's folder. --dry-run prints the script, or on this
machine the command, and submits nothing. Exit status: 0 is well, 1 a job that failed, ran out of time, was
cancelled or stopped at a checkpoint, 2 nothing could be done, 3 not ended within --wait.
"""

import argparse
import os
import re
import sys
import time
import uuid

from cluster.jobs import scripts
from cluster.jobs import states as jobs
from cluster.jobs import wrapper as keeper
from cluster.jobs.states import JobError
from helpers import ROOT

_LOOK = (0.5, 15.0)  # seconds between looks at a job: the first, and the longest
_ATTRIBUTES = """any other option of the scheduler, by its long name for Slurm and Cobalt and by its letter for PBS:
qos=debug or requeue (Slurm), attrs=mcdram=cache:numa=quad (Cobalt), r=y or l=naccelerators=0 (PBS); select=mem=64gb
(PBS) is added to each chunk"""


def main(arguments=None):
    """The command; returns its exit status."""
    options = _parse(arguments)
    try:
        if options.what == "status":
            return _tell(*jobs.find(options.id))
        if options.what == "cancel":
            return _cancel(*jobs.find(options.id))
        return _submit(options)
    except JobError as error:
        print(f"cluster.submit: {error}", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message):
        self.exit(2, f"cluster.submit: {message} (--help tells more)\n")


def _parse(arguments):
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="python -m cluster.submit", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="what", required=True)
    for what, text in {"notebooks": "cluster.run_notebooks", "train": "helpers.train on all ranks"}.items():
        command = commands.add_parser(what, help=f"submit {text}")
        add = command.add_argument
        add("--scheduler", choices=jobs.PROGRAMS, help="which (the one whose commands are here, or local)")
        add("--nodes", type=_positive, default=1, help="nodes (1)")
        add("--ranks-per-node", type=_positive, default=2, help="MPI ranks on each node (2)")
        add("--threads", type=_positive, default=1, help="threads of each rank (1)")
        add("--time", type=_seconds, default="0:30:00", help="limit as H:MM:SS, H:MM or minutes (0:30:00)")
        add("--queue", help="queue, or Slurm's partition")
        add("--account", help="account or project that is charged")
        add("--exclusive", action="store_true", help="whole nodes, shared with no other job (Slurm, PBS)")
        add("--filesystems", metavar="NAMES", help="file systems of the job, as home:eagle (PBS at the ALCF)")
        add("--system", metavar="NAME", help="whole nodes of this machine, as polaris (PBS at the ALCF)")
        add("--attribute", action="append", default=[], metavar="NAME[=VALUE]", help=_ATTRIBUTES)
        add("--dry-run", action="store_true", help="print what would be submitted")
        add("--wait", type=float, metavar="SECONDS", help="wait for the job's end, not longer than this")
        add("rest", nargs="*", metavar="-- ARGUMENT", help="arguments of the command")
    for what in ("status", "cancel"):
        commands.add_parser(what, help=f"{what} of a job").add_argument("id")
    return parser.parse_args(arguments)


def _positive(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text!r}")
    return int(text)


def _seconds(text):
    match = re.fullmatch(r"(?:(\d+):)?(\d+)(?::([0-5]\d))?", text)
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    if not hours + minutes + seconds or (match[1] and minutes > 59) or (match[3] and not match[1]):
        raise argparse.ArgumentTypeError(f"expected H:MM:SS, H:MM or minutes, found {text!r}")
    return 3600 * hours + 60 * minutes + seconds


def _submit(options):
    options.scheduler = options.scheduler or jobs.here()
    folder = jobs.FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{options.what}-{uuid.uuid4().hex[:6]}"
    if options.dry_run:
        print(scripts.script(options, folder))
        return 0
    record = {"scheduler": options.scheduler, "seconds": options.time, "submitted": time.time()}
    record["id"] = scripts.submit(options, folder)
    keeper.write(folder / "job.json", **record)
    print(f"{record['scheduler']} job {record['id']} submitted; its output: {_near(folder / 'output.txt')}", flush=True)
    try:
        return 0 if options.wait is None else _wait(record, folder, options.wait)
    except KeyboardInterrupt:
        print(f"The job goes on. To end it: python -m cluster.submit cancel {record['id']}")
        return 3


def _wait(record, folder, limit):
    until = time.monotonic() + limit
    pause = _LOOK[0]
    while not (now := jobs.state(record, folder)).ended:
        if time.monotonic() > until:
            print(f"{record['scheduler']} job {record['id']}: {now.word} still, after {limit:g} seconds (--wait)")
            return 3
        time.sleep(min(pause, max(0, until - time.monotonic()) + 0.1))
        pause = min(1.5 * pause, _LOOK[1])
    return _tell(record, folder)


def _tell(record, folder):
    """Print a job's state, and of one that did not end well the last lines of its output."""
    now = jobs.state(record, folder)
    detail = f" ({now.detail})" if now.detail else ""
    print(f"{record['scheduler']} job {record['id']}: {now.word}{detail}; its output: {_near(folder / 'output.txt')}")
    if not now.ended or now.word == jobs.DONE:
        return 0
    for path in (folder / "launch.txt", folder / "output.txt"):
        if path.is_file():
            lines = path.read_text(errors="replace").splitlines()[-5:]
            print(*(f"  {line}" for line in lines), sep="\n", end="\n" if lines else "")
    return 1


def _cancel(record, folder):
    """End a job, and tell its state within some seconds; a job that has ended stays what it was."""
    if not jobs.state(record, folder).ended:
        (folder / "cancelled").touch()
        try:
            scripts.cancel(record, folder)
        except JobError:
            # It goes on, and is not to be told as cancelled when it ends otherwise.
            (folder / "cancelled").unlink()
            raise
        until = time.monotonic() + jobs.ANSWER
        while not jobs.state(record, folder).ended and time.monotonic() < until:
            time.sleep(_LOOK[0])
    _tell(record, folder)
    return 0


def _near(path):
    """The path as it is seen from here, if it is the course's or below."""
    return os.path.relpath(path) if path.is_relative_to(ROOT) or path.is_relative_to(os.getcwd()) else path


if __name__ == "__main__":
    sys.exit(main())
