"""Find the program that starts the ranks on this machine, with its options and environment.

    python -m cluster.launcher [-n RANKS] COMMAND ...

runs COMMAND on RANKS ranks, or on as many ranks as the job has places for, and prints the launcher's command.
"""

import argparse
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from cluster import allocation
from cluster.allocation import Allocation, AllocationError
from helpers import ROOT

import psutil

LAUNCHERS = ("mpiexec", "aprun", "srun")
# One thread for each rank, because the ranks fill the cores. A job script can set more threads before.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
_VERSION_SECONDS = 30  # limit for the launcher to print its version
# Where mpiexec starts ranks by ssh, it waits for a host that has fallen silent until ssh ends, after a minute.
SSH_OPTIONS = "-o ServerAliveInterval=15 -o ServerAliveCountMax=4"


def name() -> str:
    """Return the launcher's name: aprun or srun inside their own job, and else mpiexec. $BNN_LAUNCHER takes precedence.

    Raises:
      ValueError: $BNN_LAUNCHER is not one of `LAUNCHERS`.
    """
    chosen = os.environ.get("BNN_LAUNCHER")
    if chosen:
        if chosen not in LAUNCHERS:
            raise ValueError(f"BNN_LAUNCHER is {chosen!r}; it can be {', '.join(LAUNCHERS)}, or unset")
        return chosen
    if "COBALT_JOBID" in os.environ and shutil.which("aprun"):
        return "aprun"
    if "SLURM_JOB_ID" in os.environ and shutil.which("srun") and not _has_own_mpiexec():
        return "srun"
    return "mpiexec"


def _has_own_mpiexec() -> bool:
    """Return whether an MPI lies beside this Python. srun cannot start its ranks, because they share no PMI protocol.

    This MPI's own mpiexec reads the job's nodes from $SLURM_NODELIST, and lets srun start one daemon on each.
    """
    return "SLURM_NODELIST" in os.environ and (Path(sys.executable).parent / "mpiexec").exists()


def search_path() -> str:
    """Return PATH with the folder of this Python first, because JupyterHub starts kernels without activating it."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def program() -> str | None:
    """Return the launcher's full path, or None if it is not installed."""
    return shutil.which(name(), path=search_path())


def spans_hosts() -> bool:
    """Return whether ranks run on other hosts. With aprun they always do, because aprun runs on a service node."""
    return name() == "aprun" or len(allocation.hosts()) > 1


def address() -> str:
    """Return the address at which the controller listens: loopback, or the one that the job's other hosts reach.

    Raises:
      AllocationError: no name of the job's hosts has an address.
    """
    if not spans_hosts():
        return "127.0.0.1"
    here, hosts = socket.gethostname(), allocation.hosts()
    # Connecting a datagram socket sends nothing. It asks the routing table which interface leads to the host.
    for host in [*(host for host in hosts if host != here), here]:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((host, 9))
                return probe.getsockname()[0]
        except OSError:
            # The scheduler's name of a node need not be its name in the network.
            continue
    raise AllocationError(f"No address leads to the job's hosts, because none of {hosts} nor {here} resolves")


def cores() -> int:
    """Return the number of physical cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def options(ranks: int, engines: bool = True) -> list[str]:
    """Return the launcher's options for `ranks` ranks, without the number of ranks itself.

    $BNN_CPU_BIND replaces the binding to cores. It uses the launcher's own words, such as list:1-8:9-16 for PALS,
    map_ldom:1,0 for srun, 0-7:8-15 for aprun, and none for Open MPI. The words of $BNN_LAUNCHER_OPTIONS come last.

    Args:
      ranks: total number of ranks, which are spread evenly over the job's nodes.
      engines: also hand over the variables that only ipyparallel's engines need.

    Raises:
      AllocationError: the scheduler's variables are wrong.
      ValueError: $BNN_LAUNCHER is not one of `LAUNCHERS`.
    """
    more = shlex.split(os.environ.get("BNN_LAUNCHER_OPTIONS", ""))
    bind = os.environ.get("BNN_CPU_BIND")
    job = allocation.find()
    nodes = min(job.nodes, ranks) if job else 1
    per_node, threads = str(-(-ranks // nodes)), os.environ.get("OMP_NUM_THREADS", "1")
    if name() == "aprun":
        return ["-b", "-cc", bind or "depth", *(["-N", per_node, "-d", threads] if job else []), *more]
    if name() == "srun":
        spread = [f"--nodes={nodes}", f"--ntasks-per-node={per_node}", f"--cpus-per-task={threads}"] if job else []
        return [f"--cpu-bind={bind or 'cores'}", "--kill-on-bad-exit=1", *spread, *more]
    implementation = _mpi_implementation()
    if implementation == "Open MPI":
        return [*_open_mpi(ranks, int(per_node), int(threads), job, engines), *more]
    if implementation == "Hydra" and job:
        return ["-ppn", per_node, "-bind-to", bind or f"core:{threads}", *more]
    if implementation == "PALS":
        depth = [] if bind else ["--depth", threads]
        return ["--ppn", per_node, *depth, "--cpu-bind", bind or "depth", *more]
    return more


def _mpi_implementation() -> str:
    """Return whose mpiexec it is: "Open MPI", "Hydra" (MPICH and Intel), "PALS" (Cray), or "" if unknown.

    An unknown mpiexec in a PBS job counts as PALS.
    """
    version = subprocess.run(
        [program() or name(), "--version"], capture_output=True, text=True, timeout=_VERSION_SECONDS
    ).stdout
    known = {"Open MPI": "Open MPI", "OpenRTE": "Open MPI", "HYDRA": "Hydra", "Intel": "Hydra"}
    for word, implementation in known.items():
        if word in version:
            return implementation
    return "PALS" if "PALS" in version or "PBS_NODEFILE" in os.environ else ""


def _open_mpi(ranks: int, per_node: int, threads: int, job: Allocation | None, engines: bool) -> list[str]:
    """Return Open MPI's options. Each thread of each rank is bound to a core if there are enough cores."""
    bind = os.environ.get("BNN_CPU_BIND")
    fits = per_node * threads <= cores() and (not job or ranks <= job.ranks)
    if not spans_hosts():
        if bind:
            return ["-bind-to", bind, *([] if fits else ["--oversubscribe"])]
        bound = ["-bind-to", "core"] if threads == 1 else ["-map-by", f"slot:pe={threads}", "-bind-to", "core"]
        return bound if fits else ["--oversubscribe"]
    # Open MPI is the only launcher that gives remote ranks none of this environment.
    exported = {*environment(), *(key for key in os.environ if key.startswith("BNN_"))} - {"OMPI_MCA_plm_rsh_args"}
    exported |= {"IPP_CONNECTION_INFO", "IPP_CLUSTER_ID", "IPP_PROFILE_DIR"} if engines else set()
    # It asks Slurm for the job's nodes by itself. The Open MPI that MPI=wheel installs cannot ask PBS.
    hosts = ["-hostfile", os.environ["PBS_NODEFILE"]] if "PBS_NODEFILE" in os.environ else []
    spread = f"ppr:{per_node}:node"
    bound = [f"{spread}:pe={threads}", "-bind-to", "core"] if fits else [spread, "--oversubscribe"]
    bound = [spread, "-bind-to", bind, *([] if fits else ["--oversubscribe"])] if bind else bound
    return [*hosts, "-map-by", *bound, *(word for key in sorted(exported) for word in ("-x", key))]


def command(ranks: int, *words: str, engines: bool = False) -> list[str]:
    """Return the whole command that runs `words` on `ranks` ranks. See `options` for `engines` and the errors."""
    return [program() or name(), "-n", str(ranks), *options(ranks, engines), *words]


def environment() -> dict[str, str]:
    """Return the environment variables that the ranks have in addition to this process's, or with other values."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    added = {"PATH": search_path(), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    added |= {variable: os.environ.get(variable, threads) for variable in _THREADS}
    added["TF_NUM_INTEROP_THREADS"] = os.environ.get("TF_NUM_INTEROP_THREADS", "1")
    added["TF_CPP_MIN_LOG_LEVEL"] = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")
    if not spans_hosts():
        # Otherwise Open MPI's ranks listen on every interface for ranks on other hosts.
        added |= {"OMPI_MCA_btl": "^tcp", "OMPI_MCA_oob_tcp_if_include": "127.0.0.0/8"}
    else:
        added["OMPI_MCA_plm_rsh_args"] = os.environ.get("OMPI_MCA_plm_rsh_args", SSH_OPTIONS)
    if os.geteuid() == 0:
        # Root is usually the user of a container. Open MPI asks for this permission in two variables.
        added |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return added


def main(arguments: list[str] | None = None) -> int:
    """Replace this process by the launcher with a command's ranks.

    Args:
      arguments: words of the command line, None for `sys.argv`.

    Returns:
      The exit status 2, and only if the launcher cannot be started.
    """
    parser = argparse.ArgumentParser(prog="python -m cluster.launcher", description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, help="number of ranks (as many as the job has places for; 2 outside of a job)")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    try:
        ranks = allocation.ranks() if given.n is None else given.n
        if ranks < 1 or not given.command:
            parser.error(f"expected a command and 1 rank or more, found {ranks} and {given.command}")
        words = command(ranks, *given.command)
        # The line is printed without the variables that Open MPI hands over, because they fill several lines.
        shown = re.sub(r" -x \w+", "", shlex.join([name(), *words[1:]]).replace(sys.executable, "python"))
        print("+", shown, file=sys.stderr, flush=True)
        os.execvpe(words[0], words, {**os.environ, **environment()})
    except (AllocationError, ValueError) as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"{name()} cannot be started: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
