"""Read what the scheduler gave this job: the number of nodes, their names, and the number of ranks."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SCONTROL_SECONDS = 30  # limit for the answer of scontrol


class AllocationError(Exception):
    """The scheduler's variables cannot be right. The message says what was expected and what was found."""


@dataclass(frozen=True)
class Allocation:
    """The nodes of a job.

    Attributes:
      scheduler: "cobalt", "pbs" or "slurm".
      nodes: number of nodes.
      ranks: number of ranks over all nodes.
      hosts: names of the nodes in order. It is empty if the scheduler does not name them.
    """

    scheduler: str
    nodes: int
    ranks: int
    hosts: tuple[str, ...] = ()


def find() -> Allocation | None:
    """Return the allocation of the job in which this process runs, or None outside of any job.

    $BNN_RANKS_PER_NODE sets the number of ranks on each node. Without it, the number is what the job asked for: the
    tasks of Slurm, or the mpiprocs of PBS, whose node file has one line for each. Otherwise each node has one rank.

    Raises:
      AllocationError: a node file cannot be read, or a variable is not a number.
    """
    if "COBALT_JOBID" in os.environ:
        hosts = _node_file("COBALT_NODEFILE")
        # COBALT_JOBSIZE may count processes, and some machines have no node file.
        nodes = _number("COBALT_PARTSIZE") or len(set(hosts)) or _number("COBALT_JOBSIZE") or 1
        return _allocation("cobalt", nodes, nodes, hosts)
    if "PBS_NODEFILE" in os.environ:
        hosts = _node_file("PBS_NODEFILE")
        return _allocation("pbs", len(set(hosts)) or 1, len(hosts) or 1, hosts)
    if "SLURM_JOB_ID" in os.environ and "SLURM_JOB_NODELIST" in os.environ:
        hosts = _slurm_hosts()
        nodes = _number("SLURM_JOB_NUM_NODES") or len(hosts) or 1
        # A job that asked only for nodes has no total number of tasks, but it has tasks for each node.
        tasks = _number("SLURM_NTASKS") or sum(_repeated("SLURM_TASKS_PER_NODE")) or nodes
        return _allocation("slurm", nodes, tasks, hosts)
    return None


def ranks(otherwise: int = 2) -> int:
    """Return how many ranks fill the job's nodes, or `otherwise` outside of any job."""
    job = find()
    return job.ranks if job else otherwise


def hosts() -> list[str]:
    """Return the job's hosts in order, each once. The list is empty without a job or if the scheduler names none."""
    job = find()
    return list(job.hosts) if job else []


def _allocation(scheduler: str, nodes: int, ranks: int, hosts: Iterable[str]) -> Allocation:
    """Return the allocation, with the ranks of $BNN_RANKS_PER_NODE in place of `ranks` if that is set."""
    per_node = _number("BNN_RANKS_PER_NODE")
    return Allocation(scheduler, nodes, nodes * per_node if per_node else ranks, tuple(dict.fromkeys(hosts)))


def _number(variable: str) -> int:
    """Return the variable's value, or 0 if it is not set."""
    text = os.environ.get(variable, "0").strip() or "0"
    if not text.isdigit():
        raise AllocationError(f"{variable} is {text!r}; expected a number")
    return int(text)


def _node_file(variable: str) -> list[str]:
    """Return the lines of the node file that the variable names, or none if it is not set."""
    if not os.environ.get(variable):
        return []
    try:
        return Path(os.environ[variable]).read_text().split()
    except OSError as error:
        raise AllocationError(f"{variable} names a file that cannot be read: {error}") from error


def _repeated(variable: str) -> list[int]:
    """Expand Slurm's notation of one number for each node: 2(x3),1 means 2, 2, 2, 1."""
    values = []
    for part in filter(None, os.environ.get(variable, "").split(",")):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not match:
            raise AllocationError(f"{variable} is {os.environ[variable]!r}; expected numbers such as 2(x3),1")
        values += [int(match[1])] * int(match[2] or 1)
    return values


def _slurm_hosts() -> list[str]:
    """Return the hosts of $SLURM_JOB_NODELIST. scontrol expands them, because the notation is Slurm's own."""
    if not shutil.which("scontrol"):
        return []
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SCONTROL_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise AllocationError(f"scontrol does not say which hosts {command[-1]} are: {error}") from error
    return done.stdout.split()
