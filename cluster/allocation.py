"""What the scheduler gave this job: how many nodes, which, and how many ranks on each."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_ANSWER = 30  # seconds that scontrol has


class AllocationError(Exception):
    """The scheduler's variables say something that cannot be: what was expected, and what was found."""


@dataclass(frozen=True)
class Allocation:
    """A job's nodes: `hosts` in order, empty where the scheduler does not name them, and `ranks` over all of them."""

    scheduler: str
    nodes: int
    ranks: int
    hosts: tuple = ()


def find():
    """The `Allocation` of the job in which this process runs, or None outside of any.

    Ranks are $BNN_RANKS_PER_NODE on each node; else what the job asked for: Slurm's tasks, PBS's mpiprocs (a line
    each in the node file); else one a node.

    Raises:
      AllocationError: a node file cannot be read, or a variable is no number.
    """
    if "COBALT_JOBID" in os.environ:
        hosts = _node_file("COBALT_NODEFILE")
        # COBALT_JOBSIZE may count processes; the node file is not there on every machine.
        nodes = _number("COBALT_PARTSIZE") or len(set(hosts)) or _number("COBALT_JOBSIZE") or 1
        return _allocation("cobalt", nodes, nodes, hosts)
    if "PBS_NODEFILE" in os.environ:
        hosts = _node_file("PBS_NODEFILE")
        return _allocation("pbs", len(set(hosts)) or 1, len(hosts) or 1, hosts)
    if "SLURM_JOB_ID" in os.environ and "SLURM_JOB_NODELIST" in os.environ:
        hosts = _slurm_hosts()
        nodes = _number("SLURM_JOB_NUM_NODES") or len(hosts) or 1
        # A job that asked for nodes alone has no number of tasks, but still has tasks by node.
        tasks = _number("SLURM_NTASKS") or sum(_repeated("SLURM_TASKS_PER_NODE")) or nodes
        return _allocation("slurm", nodes, tasks, hosts)
    return None


def ranks(otherwise=2):
    """How many ranks fill the job's nodes; `otherwise` outside of any job."""
    job = find()
    return job.ranks if job else otherwise


def hosts():
    """The job's hosts, in order and each once; empty where there is no job, or the scheduler does not say."""
    job = find()
    return list(job.hosts) if job else []


def _allocation(scheduler, nodes, ranks, hosts):
    per_node = _number("BNN_RANKS_PER_NODE")
    return Allocation(scheduler, nodes, nodes * per_node if per_node else ranks, tuple(dict.fromkeys(hosts)))


def _number(variable):
    """The variable's value, 0 if it is not set."""
    text = os.environ.get(variable, "0").strip() or "0"
    if not text.isdigit():
        raise AllocationError(f"{variable} is {text!r}; expected a number")
    return int(text)


def _node_file(variable):
    """The lines of the node file that the variable names; none if it is not set."""
    if not os.environ.get(variable):
        return []
    try:
        return Path(os.environ[variable]).read_text().split()
    except OSError as error:
        raise AllocationError(f"{variable} names a file that cannot be read: {error}") from error


def _repeated(variable):
    """Slurm's way to write a number for each node: 2(x3),1 is 2, 2, 2, 1."""
    values = []
    for part in filter(None, os.environ.get(variable, "").split(",")):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not match:
            raise AllocationError(f"{variable} is {os.environ[variable]!r}; expected the like of 2(x3),1")
        values += [int(match[1])] * int(match[2] or 1)
    return values


def _slurm_hosts():
    """The hosts of SLURM_JOB_NODELIST, which abbreviates them as only scontrol is sure to understand."""
    if not shutil.which("scontrol"):
        return []
    ask = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    try:
        return subprocess.run(ask, capture_output=True, text=True, timeout=_ANSWER, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        raise AllocationError(f"scontrol does not say which hosts {ask[-1]} are: {error}") from error
