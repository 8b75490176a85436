"""The jobs that were submitted from here: a folder for each, and what became of it.

A job's folder is build/jobs/NAME (or in $BNN_JOBS_DIR): job.json is what was asked for, output.txt what the command
said, began.json and ended.json are the words of cluster/keeper.py.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from helpers import ROOT

import psutil

FOLDER = Path(os.environ.get("BNN_JOBS_DIR", ROOT / "build" / "jobs"))
ANSWER = 20.0  # seconds that a scheduler's command has
QUEUED, RUNNING, DONE = "queued", "running", "done"
FAILED, OVER, CANCELLED, LOST = "failed", "ran out of time", "cancelled", "lost"
STOPPED = "stopped at a checkpoint"
_STOPPED = 75  # helpers.watch.STATUS, which is not taken from there because that imports TensorFlow
PROGRAMS = {
    "slurm": ("sbatch", "scontrol", "scancel"),
    "pbs": ("qsub", "qstat", "qdel"),
    "pbs_classic": ("qsub", "qstat", "qdel"),
    "cobalt": ("qsub", "qstat", "qdel"),
    "local": (),
}
_SLACK = 30.0  # seconds before its limit at which a scheduler may already end a job


class JobError(Exception):
    """A scheduler does not do what was asked; the message says what it said."""


class State(NamedTuple):
    """A job's state, one of this module's words, and what else is known of it."""

    word: str
    detail: str = ""

    @property
    def ended(self):
        return self.word not in (QUEUED, RUNNING)


def ask(words, known=()):
    """What a scheduler's command prints, or None if it fails with a message that has one of `known` in it.

    An empty one among `known` stands for a failure without any message.

    Raises:
      JobError: the command is missing, fails otherwise, or does not answer within ANSWER seconds.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=ANSWER, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise JobError(f"{words[0]} is not on the PATH: is this a login node of the machine?") from None
    except subprocess.TimeoutExpired:
        raise JobError(f"{words[0]} did not answer within {ANSWER:.0f} seconds: the scheduler may be down") from None
    if done.returncode == 0:
        return done.stdout
    said = " ".join(f"{done.stdout} {done.stderr}".split())
    if any(part in said if part else not said for part in known):
        return None
    raise JobError(f"{words[0]} failed with status {done.returncode}: {said or 'it said nothing'}")


def find(number):
    """The record and the folder of the job with this number, the latest if a scheduler began to count anew.

    Raises:
      JobError: no such job was submitted from here.
    """
    known = {}
    for path in FOLDER.glob("*/job.json"):
        record = _word(path)
        known.setdefault(record["id"], []).append((record["submitted"], record, path.parent))
    if number not in known:
        names = ", ".join(sorted(known)) or "none"
        raise JobError(f"No job {number} was submitted from here. Those in {FOLDER}: {names}")
    return max(known[number], key=lambda entry: entry[0])[1:]


def state(record, folder):
    """The `State` of a job, from its scheduler as long as that remembers it, and from the job's own words.

    Raises:
      JobError: the scheduler does not answer.
    """
    look = {"slurm": _slurm, "cobalt": _cobalt, "local": _local}.get(record["scheduler"], _pbs)
    said = look(record, folder)
    began, ended = _word(folder / "began.json"), _word(folder / "ended.json")
    if said and (said.word not in (DONE, FAILED) or not ended):
        return said
    limit = f"its limit of {record['seconds']} seconds"
    cancelled = (folder / "cancelled").exists()
    if ended:
        lasted = ended["time"] - began["time"]
        if ended["over"] or (ended["signal"] and not cancelled and lasted > record["seconds"] - _SLACK):
            return State(OVER, f"after {lasted:.0f} seconds, {limit}" if not ended["over"] else limit)
        if ended["signal"]:
            return State(CANCELLED, f"after {lasted:.0f} seconds")
        if ended["status"] == _STOPPED:
            return State(STOPPED, f"after {lasted:.0f} seconds; submit it again with --resume")
        if ended["status"]:
            return State(FAILED, f"with status {ended['status']}, after {lasted:.0f} seconds")
        return State(DONE, f"after {lasted:.0f} seconds")
    if cancelled:
        return State(CANCELLED)
    if began and time.time() > began["time"] + record["seconds"] - _SLACK:
        return State(OVER, limit)
    if began or time.time() > record["submitted"] + ANSWER:
        return State(LOST, "it ended without a word: its node failed, or it was killed")
    return State(QUEUED)


def _word(path):
    """What a job's file says, None where there is none yet."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise JobError(f"{path} is damaged ({error}): remove the job's folder, {path.parent.name}") from error


def _slurm(record, folder):
    """What Slurm says, or None if it has forgotten the job, as it does minutes after its end."""
    said = ask(["scontrol", "--oneliner", "show", "job", record["id"]], known=["Invalid job id"])
    if said is None:
        return None
    found = re.search(r"\bJobState=(\w+) Reason=(.*?) \w+=", said)
    if not found:
        raise JobError(f"scontrol says nothing of the job's state: {said:.80}")
    word, reason = found.groups()
    detail = f"Slurm says {word}" + (f", {reason}" if reason != "None" else "")
    words = {"COMPLETED": DONE, "TIMEOUT": OVER, "DEADLINE": OVER, "CANCELLED": CANCELLED}
    words |= dict.fromkeys(["RUNNING", "COMPLETING", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"], RUNNING)
    words |= dict.fromkeys(["PENDING", "CONFIGURING", "REQUEUED", "SUSPENDED", "RESV_DEL_HOLD", "REQUEUE_HOLD"], QUEUED)
    return State(words.get(word, FAILED), detail)


def _pbs(record, folder):
    """What PBS says, of ended jobs too where its history is on; or None if it has forgotten the job."""
    said = ask(["qstat", "-x", "-f", "-F", "json", record["id"]], known=["Unknown Job", "not found"])
    try:
        jobs = json.loads(said).get("Jobs", {}) if said else {}
    except ValueError as error:
        raise JobError(f"qstat's answer is no JSON: {error}") from error
    if not jobs:
        return None
    job = next(iter(jobs.values()))
    if job["job_state"] in ("R", "E", "B"):
        return State(RUNNING)
    if job["job_state"] not in ("F", "X"):
        return State(QUEUED, job.get("comment", ""))
    status, detail = job.get("Exit_status"), job.get("comment", "")
    used = sum(60**n * int(part) for n, part in enumerate(reversed(_walltime(job).split(":"))))
    # PBS Professional's negative statuses are its own; beyond 256, or 128, are signals.
    if status == -29 or (status in (271, 143) and used > record["seconds"] - _SLACK):
        return State(OVER, detail)
    if status is None or status in (265, 271, 137, 143):
        return State(CANCELLED, detail)
    return State(FAILED if status else DONE, f"with status {status}. {detail}".rstrip())


def _walltime(job):
    return job.get("resources_used", {}).get("walltime", "0")


def _cobalt(record, folder):
    """What Cobalt says, or None once the job has ended: it forgets it at once."""
    said = ask(["qstat", "-l", "--header=Jobid:State", record["id"]], known=[""])
    found = re.search(r"State\s*:\s*(\w+)", said or "")
    if not found:
        return None
    return State(RUNNING if found[1] in ("starting", "running", "exiting", "killing") else QUEUED)


def _local(record, folder):
    """Whether the job's keeper runs on this machine, or None if it has ended."""
    began = _word(folder / "began.json")
    number, created = (began["pid"], began["created"]) if began else (int(record["id"]), None)
    try:
        process = psutil.Process(number)
        same = created is None or process.create_time() == created
        return State(RUNNING) if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def stop_local(record, folder):
    """Tell the job's keeper on this machine to end it."""
    began = _word(folder / "began.json")
    # Before the keeper has begun there is only PSI/J's shell around it.
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(began["pid"] if began else int(record["id"]))
        if not began or process.create_time() == began["created"]:
            process.terminate()


def missing(scheduler):
    """Those of the scheduler's commands that are not on the PATH."""
    return [program for program in PROGRAMS[scheduler] if not shutil.which(program)]


def here():
    """The scheduler of this machine: local if there is none."""
    if shutil.which("sbatch"):
        return "slurm"
    # Cobalt and PBS both have a qsub; cqsub is Cobalt's alone.
    if shutil.which("cqsub"):
        return "cobalt"
    return "pbs" if shutil.which("qsub") else "local"
