"""Turn the options of `cluster.submit` into a PSI/J job, and submit it or show what would be submitted.

The job scripts are templates/NAME.mustache, one file a scheduler. A template reads nothing but the PSI/J job, so a dry
run renders the text that a submission hands over, and writes no file.
"""

import argparse
import io
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import IO, Any

from cluster.jobs import attributes, states
from cluster.jobs.states import JobError
from helpers import ROOT, files

import psij
from psij.executors.batch.cobalt import CobaltJobExecutor
from psij.executors.batch.pbs import PBSJobExecutor
from psij.executors.batch.pbs_classic import PBSClassicJobExecutor
from psij.executors.batch.script_generator import TemplatedScriptGenerator
from psij.executors.batch.slurm import SlurmJobExecutor

# Seconds before its limit at which a training job is asked to stop at a checkpoint, but at most a quarter of the limit.
AHEAD = 120
_TEMPLATES = Path(__file__).with_name("templates")
# Cobalt passes none of the environment on to a job.
_CARRIED = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")


class _CourseTemplate:
    """What the executors below add to PSI/J's: they render the course's template in place of PSI/J's own."""

    name: str  # of the scheduler, and of its template

    def __init__(self) -> None:
        super().__init__()
        self._template = TemplatedScriptGenerator(psij.JobExecutorConfig(), _TEMPLATES / f"{self.name}.mustache")

    def generate_submit_script(self, job: psij.Job, context: dict[str, object], submit_file: IO[str]) -> None:
        """Write the job's script to `submit_file`. PSI/J's `context` is not used, because making it writes files."""
        self._template.generate_submit_script(job, _values(job), submit_file)


class _Slurm(_CourseTemplate, SlurmJobExecutor):
    name = "slurm"


class _Pbs(_CourseTemplate, PBSJobExecutor):
    name = "pbs"


class _PbsClassic(_CourseTemplate, PBSClassicJobExecutor):
    name = "pbs_classic"


class _Cobalt(_CourseTemplate, CobaltJobExecutor):
    name = "cobalt"


_EXECUTORS = {executor.name: executor for executor in (_Slurm, _Pbs, _PbsClassic, _Cobalt)}


def script(options: argparse.Namespace, folder: Path) -> str:
    """Return what `submit` would hand over: the script, or on this machine the command. Write and submit nothing.

    Args:
      options: The options of `cluster.submit`, with the scheduler's name in `scheduler`.
      folder: The folder that the job would get.

    Raises:
      JobError: The scheduler has no such option, or a value is malformed.
    """
    job = _job(options, folder)
    if options.scheduler == "local":
        return f"{shlex.join(_command(options, folder))}\n"
    return _render(_EXECUTORS[options.scheduler](), job)


def submit(options: argparse.Namespace, folder: Path) -> str:
    """Create the job's folder, submit the job, and return the number that the scheduler gave it.

    Args:
      options: The options of `cluster.submit`, with the scheduler's name in `scheduler`.
      folder: The job's folder. It is removed again if the job is not taken.

    Raises:
      JobError: As for `script`; or the folder cannot be written; or the scheduler is missing, does not answer within
        `states.ANSWER` seconds, or refuses the job.
    """
    job = _job(options, folder)
    if absent := states.missing(options.scheduler):
        raise JobError(
            f"{', '.join(absent)}: not on the PATH. Is this a login node of a machine with {options.scheduler}?"
        )
    number = None
    try:
        folder.mkdir(parents=True)
        number = _submit_local(job, folder) if options.scheduler == "local" else _submit(options.scheduler, job, folder)
    except OSError as error:
        raise JobError(
            f"cannot write in {folder} ({error.strerror}), so no job was submitted. "
            "Set BNN_JOBS_DIR to a folder that you can write to"
        ) from error
    finally:
        if number is None:
            shutil.rmtree(folder, ignore_errors=True)
    return number


def cancel(record: dict[str, Any], folder: Path) -> None:
    """Ask for the end of a job, which can take some seconds.

    Args:
      record: What job.json says of the job.
      folder: The job's folder.

    Raises:
      JobError: The scheduler does not answer, or refuses.
    """
    if record["scheduler"] == "local":
        states.stop_local(record, folder)
    else:
        states.ask(_EXECUTORS[record["scheduler"]]().get_cancel_command(record["id"]))


def _submit(scheduler: str, job: psij.Job, folder: Path) -> str:
    """Hand the script to a scheduler, through PSI/J's public methods.

    PSI/J's own `submit` puts no limit on the time that a scheduler may take, so `states.ask` runs the command here.
    PSI/J would also copy a launcher into a folder and watch the queue, but this process ends long before the job.
    """
    executor = _EXECUTORS[scheduler]()
    path = folder / "job.sh"
    files.write(path, _render(executor, job))
    command = executor.get_submit_command(job, path)
    said = states.ask(command) or ""
    try:
        return executor.job_id_from_submit_output(said)
    except (IndexError, psij.SubmitException) as error:
        raise JobError(f"{command[0]} gave no job number. It said: {' '.join(said.split()) or 'nothing'}") from error


def _submit_local(job: psij.Job, folder: Path) -> str:
    """Start the job on this machine."""
    config = psij.JobExecutorConfig(work_directory=folder / "psij")
    try:
        psij.JobExecutor.get_instance("local", config=config).submit(job)
    except psij.SubmitException as error:
        raise JobError(f"this machine did not start the job: {' '.join(str(error).split())}") from error
    return str(job.native_id)


def _render(executor: _CourseTemplate, job: psij.Job) -> str:
    text = io.StringIO()
    executor.generate_submit_script(job, {}, text)
    return text.getvalue()


def _values(job: psij.Job) -> dict[str, object]:
    """Return what a template can name: the job, and values that follow from it."""
    specification: Any = job.spec  # PSI/J's hints allow all of its parts to be missing
    resources, asked = specification.resources, specification.attributes
    seconds = int(asked.duration.total_seconds())
    options = dict(asked.custom_attributes)
    chunk = options.pop("select", "")
    return {
        "job": job,
        "time": f"{seconds // 3600}:{seconds // 60 % 60}:{seconds % 60}",
        "minutes": -(-seconds // 60),
        "cores": resources.processes_per_node * resources.cpu_cores_per_process,
        "chunk": chunk,
        # At the ALCF, a chunk with a system's name is a whole node, and ncpus counts hardware threads.
        "whole_nodes": "system=" in chunk,
        "options": [{"name": name, "value": value} for name, value in options.items()],
    }


def _job(options: argparse.Namespace, folder: Path) -> psij.Job:
    """Return the PSI/J job: one process on the first node, which starts the ranks itself.

    PSI/J's own launchers know neither ranks per node nor the binding of ranks to cores. cluster/launcher.py does.
    """
    if re.search(r"\s", f"{folder}{ROOT}"):
        raise JobError(
            f"{folder} or {ROOT} has a space in its name, which job scripts cannot express. Use other folders"
        )
    program, *arguments = _command(options, folder)
    resources = psij.ResourceSpecV1(
        node_count=options.nodes,
        processes_per_node=options.ranks_per_node,
        cpu_cores_per_process=options.threads,
        exclusive_node_use=options.exclusive,
    )
    asked = attributes.checked(options)
    own: Any = asked.custom_attributes  # PSI/J's hints allow None
    named = [own.pop(name) for name in attributes.NAMES if name in own]  # a script states the name of its job once
    specification = psij.JobSpec(
        name=str(named[0]) if named else f"bnn-{options.what}",
        executable=program,
        arguments=arguments,
        directory=ROOT,
        stderr_path=folder / "launch.txt",
        # With resources, PSI/J's local executor would leave a file with the names of hosts behind.
        resources=None if options.scheduler == "local" else resources,
        attributes=asked,
    )
    return psij.Job(specification)


def _command(options: argparse.Namespace, folder: Path) -> list[str]:
    """Return the words of the wrapper on the first node, with the command that it runs."""
    ranks = options.nodes * options.ranks_per_node
    python = [sys.executable, "-m"]
    if options.what == "train":
        threads = [f"--num_intra={options.threads}"] if options.threads > 1 else []
        words = [*python, "cluster.launcher", "-n", str(ranks), *python, "helpers.train", *threads, *options.rest]
    else:
        words = [*python, "cluster.run_notebooks", "--ranks", str(ranks), *options.rest]
    variables = [f"OMP_NUM_THREADS={options.threads}", f"BNN_RANKS_PER_NODE={options.ranks_per_node}"]
    if options.scheduler == "cobalt":
        carried = {key: value for key, value in os.environ.items() if key in _CARRIED or key.startswith("BNN_")}
        variables = [*(f"{key}={value}" for key, value in carried.items()), *variables]
    limit = options.time if options.scheduler == "local" else 0
    stop = options.time - min(AHEAD, options.time // 4) if options.what == "train" else 0
    wrapper = [*python, "cluster.jobs.wrapper", str(folder), str(limit), str(stop)]
    return ["/usr/bin/env", *variables, *wrapper, *words]
