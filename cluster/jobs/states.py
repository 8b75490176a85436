"""Find the jobs that were submitted from here, and tell what became of each.

A job's folder is build/jobs/NAME, or NAME in $BNN_JOBS_DIR. job.json holds what was asked for, and job.sh is the script
that a scheduler got. output.txt is the command's output, and launch.txt what the script and the wrapper said before the
command began. The wrapper on the job's first node writes began.json and ended.json.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from helpers import ROOT

import psutil

FOLDER = Path(os.environ.get("BNN_JOBS_DIR") or ROOT / "build" / "jobs").expanduser().absolute()
ANSWER = 20.0  # seconds that a scheduler's command may take
QUEUED, RUNNING, DONE = "queued", "running", "done"
FAILED, OVER, CANCELLED, LOST = "failed", "ran out of time", "cancelled", "lost"
STOPPED = "stopped at a checkpoint"
# The exit status of a run that stopped at a checkpoint. It equals STATUS of helpers.distributed.watchdog, whose import
# would bring in TensorFlow. A test compares the two.
STATUS = 75
PROGRAMS = {
    "slurm": ("sbatch", "scontrol", "scancel"),
    "pbs": ("qsub", "qstat", "qdel"),
    "pbs_classic": ("qsub", "qstat", "qdel"),
    "cobalt": ("qsub", "qstat", "qdel"),
    "local": (),
}
_SLACK = 30.0  # seconds before its limit at which a scheduler can already end a job


class JobError(Exception):
    """Nothing could be done. The message says why, with the scheduler's own words if it refused."""


class State(NamedTuple):
    """A job's state.

    Attributes:
      word: One of the words QUEUED to STOPPED of this module.
      detail: What else is known, as a part of a sentence, or "".
    """

    word: str
    detail: str = ""

    @property
    def ended(self) -> bool:
        """Whether the job is neither queued nor running."""
        return self.word not in (QUEUED, RUNNING)


def ask(words: Sequence[str], known: Sequence[str] = ()) -> str | None:
    """Run a scheduler's command and return what it prints.

    Args:
      words: The command and its arguments.
      known: Parts of the messages of failures that the caller expects. "" stands for a failure without a message.

    Returns:
      The standard output, or None after an expected failure.

    Raises:
      JobError: The command is missing, fails otherwise, or does not answer within ANSWER seconds.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=ANSWER, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise JobError(f"{words[0]} is not on the PATH. Is this a login node of the machine?") from None
    except subprocess.TimeoutExpired:
        raise JobError(f"{words[0]} did not answer within {ANSWER:.0f} seconds: the scheduler may be down") from None
    if done.returncode == 0:
        return done.stdout
    said = " ".join(f"{done.stdout} {done.stderr}".split())
    if any(part in said if part else not said for part in known):
        return None
    raise JobError(f"{words[0]} failed with status {done.returncode}: {said or 'it said nothing'}")


def find(number: str) -> tuple[dict[str, Any], Path]:
    """Return the record and the folder of a job, of the latest one if the scheduler gave its number several times.

    Args:
      number: The scheduler's number of the job.

    Raises:
      JobError: No such job was submitted from here, or a record is damaged.
    """
    known: dict[str, list[tuple[float, dict[str, Any], Path]]] = {}
    for path in FOLDER.glob("*/job.json"):
        if record := _read(path):
            known.setdefault(record["id"], []).append((record["submitted"], record, path.parent))
    if number not in known:
        names = ", ".join(sorted(known)) or "none"
        raise JobError(f"No job {number} was submitted from here. Those in {FOLDER}: {names}")
    return max(known[number], key=lambda entry: entry[0])[1:]


def state(record: dict[str, Any], folder: Path) -> State:
    """Return the state of a job: from its scheduler as long as that remembers the job, and from the wrapper's files.

    Args:
      record: What job.json says of the job.
      folder: The job's folder.

    Raises:
      JobError: The scheduler does not answer, or a file of the job is damaged.
    """
    look = {"slurm": _slurm, "cobalt": _cobalt, "local": _local}.get(record["scheduler"], _pbs)
    said = look(record, folder)
    began, ended = _read(folder / "began.json"), _read(folder / "ended.json")
    if said and (said.word not in (DONE, FAILED) or not ended):
        return said
    limit = f"its limit of {record['seconds']} seconds"
    cancelled = (folder / "cancelled").exists()
    if began and ended:
        lasted = ended["time"] - began["time"]
        if ended["over"] or (ended["signal"] and not cancelled and lasted > record["seconds"] - _SLACK):
            return State(OVER, f"after {lasted:.0f} seconds, {limit}" if not ended["over"] else limit)
        if ended["signal"]:
            return State(CANCELLED, f"after {lasted:.0f} seconds")
        if ended["status"] == STATUS:
            return State(STOPPED, f"after {lasted:.0f} seconds; submit it again with --resume")
        if ended["status"]:
            return State(FAILED, f"with status {ended['status']}, after {lasted:.0f} seconds")
        return State(DONE, f"after {lasted:.0f} seconds")
    if cancelled:
        return State(CANCELLED)
    if began and time.time() > began["time"] + record["seconds"] - _SLACK:
        return State(OVER, limit)
    if began or time.time() > record["submitted"] + ANSWER:
        return State(LOST, "it left no exit status: its node failed, or it was killed")
    return State(QUEUED)


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a job's file says, or None if it does not exist yet."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise JobError(
            f"{path} is damaged ({error}), so the job's state is unknown: remove the job's folder, {path.parent.name}"
        ) from error


def _slurm(record: dict[str, Any], folder: Path) -> State | None:
    """Ask Slurm. None means that it has forgotten the job, as it does minutes after the job's end."""
    said = ask(["scontrol", "--oneliner", "show", "job", record["id"]], known=["Invalid job id"])
    if said is None:
        return None
    found = re.search(r"\bJobState=(\w+) Reason=(.*?) \w+=", said)
    if not found:
        raise JobError(f"scontrol does not give the job's state. It says: {said:.80}")
    word, reason = found.groups()
    detail = f"Slurm says {word}" + (f", {reason}" if reason != "None" else "")
    words = {"COMPLETED": DONE, "TIMEOUT": OVER, "DEADLINE": OVER, "CANCELLED": CANCELLED}
    words |= dict.fromkeys(["RUNNING", "COMPLETING", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"], RUNNING)
    words |= dict.fromkeys(["PENDING", "CONFIGURING", "REQUEUED", "SUSPENDED", "RESV_DEL_HOLD", "REQUEUE_HOLD"], QUEUED)
    return State(words.get(word, FAILED), detail)


def _pbs(record: dict[str, Any], folder: Path) -> State | None:
    """Ask PBS. None means that it has forgotten the job, which it does at once where its history is switched off."""
    said = ask(["qstat", "-x", "-f", "-F", "json", record["id"]], known=["Unknown Job", "not found"])
    try:
        jobs = json.loads(said).get("Jobs", {}) if said else {}
    except ValueError as error:
        raise JobError(f"the answer of qstat is not JSON: {error}") from error
    if not jobs:
        return None
    job = next(iter(jobs.values()))
    if job["job_state"] in ("R", "E", "B"):
        return State(RUNNING)
    if job["job_state"] not in ("F", "X"):
        return State(QUEUED, job.get("comment", ""))
    status, detail = job.get("Exit_status"), job.get("comment", "")
    used = sum(60**n * int(part) for n, part in enumerate(reversed(_walltime(job).split(":"))))
    # Negative statuses are PBS Professional's own. A signal's number is added to 256, or by a shell to 128.
    if status == -29 or (status in (271, 143) and used > record["seconds"] - _SLACK):
        return State(OVER, detail)
    if status is None or status in (265, 271, 137, 143):
        return State(CANCELLED, detail)
    return State(FAILED if status else DONE, f"with status {status}. {detail}".rstrip())


def _walltime(job: dict[str, Any]) -> str:
    return job.get("resources_used", {}).get("walltime", "0")


def _cobalt(record: dict[str, Any], folder: Path) -> State | None:
    """Ask Cobalt. None means that the job has ended, because Cobalt forgets it at once."""
    said = ask(["qstat", "-l", "--header=Jobid:State", record["id"]], known=[""])
    found = re.search(r"State\s*:\s*(\w+)", said or "")
    if not found:
        return None
    return State(RUNNING if found[1] in ("starting", "running", "exiting", "killing") else QUEUED)


def _local(record: dict[str, Any], folder: Path) -> State | None:
    """Look for the job's wrapper on this machine. None means that it has ended."""
    began = _read(folder / "began.json")
    number, created = (began["pid"], began["created"]) if began else (int(record["id"]), None)
    try:
        process = psutil.Process(number)
        same = created is None or process.create_time() == created
        return State(RUNNING) if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def stop_local(record: dict[str, Any], folder: Path) -> None:
    """Ask the job's wrapper on this machine to end the job."""
    began = _read(folder / "began.json")
    # Before the wrapper has begun, there is only the shell in which PSI/J starts it.
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(began["pid"] if began else int(record["id"]))
        if not began or process.create_time() == began["created"]:
            process.terminate()


def missing(scheduler: str) -> list[str]:
    """Return those of the scheduler's commands that are not on the PATH."""
    return [program for program in PROGRAMS[scheduler] if not shutil.which(program)]


def here() -> str:
    """Return the name of this machine's scheduler, or "local" if it has none."""
    if shutil.which("sbatch"):
        return "slurm"
    # Cobalt and PBS both have a qsub; cqsub is Cobalt's alone.
    if shutil.which("cqsub"):
        return "cobalt"
    return "pbs" if shutil.which("qsub") else "local"
