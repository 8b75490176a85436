"""Which program starts the ranks on this machine, with which options and environment.

    python -m cluster.launcher [-n RANKS] COMMAND ...

runs COMMAND on RANKS ranks, or on as many as the job has places for, and says how it would be done by hand.
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
from cluster.allocation import hosts
from helpers import ROOT

import psutil

LAUNCHERS = ("mpiexec", "aprun", "srun")
# One thread a rank: ranks fill the cores. A job script that gives a rank more says so beforehand.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


def name():
    """mpiexec, or aprun or srun inside their own job; $BNN_LAUNCHER overrules.

    Raises:
      ValueError: $BNN_LAUNCHER names none of them.
    """
    chosen = os.environ.get("BNN_LAUNCHER")
    if chosen:
        if chosen not in LAUNCHERS:
            raise ValueError(f"BNN_LAUNCHER is {chosen!r}; it can be {', '.join(LAUNCHERS)}, or unset")
        return chosen
    if "COBALT_JOBID" in os.environ and shutil.which("aprun"):
        return "aprun"
    if "SLURM_JOB_ID" in os.environ and shutil.which("srun") and not _starts_alone():
        return "srun"
    return "mpiexec"


def _starts_alone():
    """Whether an MPI lies beside this Python, which srun cannot start: it speaks none of srun's PMI dialects.

    Its own mpiexec reads the job's nodes from $SLURM_NODELIST, and has srun start one daemon on each.
    """
    return "SLURM_NODELIST" in os.environ and (Path(sys.executable).parent / "mpiexec").exists()


def search_path():
    """PATH with the folder of this Python first: a kernel started by JupyterHub has not activated it."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def program():
    """The launcher's full path, or None if it is not installed."""
    return shutil.which(name(), path=search_path())


def spans_hosts():
    """Whether ranks run on other hosts than this one. Under aprun always: its caller is no compute node."""
    return name() == "aprun" or len(hosts()) > 1


def address():
    """Where the controller listens: loopback, or on many hosts the one address that the others reach."""
    if not spans_hosts():
        return "127.0.0.1"
    here = socket.gethostname()
    # Connecting a datagram socket sends nothing; it asks the routing table which interface would.
    for host in [*(host for host in hosts() if host != here), here]:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((host, 9))
                return probe.getsockname()[0]
        except OSError:
            # A scheduler's name of a node need not be one of the network's.
            continue
    raise allocation.AllocationError(f"No address leads to the job's hosts: none of {hosts()} nor {here} resolves")


def cores():
    """Physical cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def options(ranks, engines=True):
    """The launcher's options for `ranks` ranks beside their number, as a list of words.

    $BNN_CPU_BIND replaces the binding to cores, in the words of the launcher: list:1-8:9-16 for PALS, map_ldom:1,0 for
    srun, 0-7:8-15 for aprun, none for Open MPI. $BNN_LAUNCHER_OPTIONS stands at the end.

    Args:
      ranks: how many in all; they are spread evenly over the job's nodes.
      engines: hand over too what engines alone need.
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
    flavour = _flavour()
    if flavour == "Open MPI":
        return [*_open_mpi(ranks, int(per_node), int(threads), job, engines), *more]
    if flavour == "Hydra" and job:
        return ["-ppn", per_node, "-bind-to", bind or f"core:{threads}", *more]
    if flavour == "PALS":
        depth = [] if bind else ["--depth", threads]
        return ["--ppn", per_node, *depth, "--cpu-bind", bind or "depth", *more]
    return more


def _flavour():
    """Whose mpiexec it is: Open MPI's, MPICH's Hydra (Intel's too), or else in a PBS job Cray's PALS."""
    version = subprocess.run([program() or name(), "--version"], capture_output=True, text=True, timeout=30).stdout
    for said, flavour in {"Open MPI": "Open MPI", "OpenRTE": "Open MPI", "HYDRA": "Hydra", "Intel": "Hydra"}.items():
        if said in version:
            return flavour
    return "PALS" if "PALS" in version or "PBS_NODEFILE" in os.environ else ""


def _open_mpi(ranks, per_node, threads, job, engines):
    """Open MPI's options: a core for each thread of each rank if there are as many, and else no binding."""
    bind = os.environ.get("BNN_CPU_BIND")
    fits = per_node * threads <= cores() and (not job or ranks <= job.ranks)
    if not spans_hosts():
        if bind:
            return ["-bind-to", bind, *([] if fits else ["--oversubscribe"])]
        bound = ["-bind-to", "core"] if threads == 1 else ["-map-by", f"slot:pe={threads}", "-bind-to", "core"]
        return bound if fits else ["--oversubscribe"]
    # Open MPI alone among the launchers gives remote ranks none of this environment.
    theirs = {*environment(), *(key for key in os.environ if key.startswith("BNN_"))}
    theirs |= {"IPP_CONNECTION_INFO", "IPP_CLUSTER_ID", "IPP_PROFILE_DIR"} if engines else set()
    # Slurm it asks by itself; of PBS this one knows nothing.
    found = ["-hostfile", os.environ["PBS_NODEFILE"]] if "PBS_NODEFILE" in os.environ else []
    spread = f"ppr:{per_node}:node"
    bound = [f"{spread}:pe={threads}", "-bind-to", "core"] if fits else [spread, "--oversubscribe"]
    bound = [spread, "-bind-to", bind, *([] if fits else ["--oversubscribe"])] if bind else bound
    return [*found, "-map-by", *bound, *(word for key in sorted(theirs) for word in ("-x", key))]


def command(ranks, *words, engines=False):
    """The whole command that runs `words` on `ranks` ranks."""
    return [program() or name(), "-n", str(ranks), *options(ranks, engines), *words]


def environment():
    """What the ranks' environment has beside this process's, as a dict."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    ours = {"PATH": search_path(), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    ours |= {variable: os.environ.get(variable, threads) for variable in _THREADS}
    ours["TF_NUM_INTEROP_THREADS"] = os.environ.get("TF_NUM_INTEROP_THREADS", "1")
    ours["TF_CPP_MIN_LOG_LEVEL"] = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")
    if not spans_hosts():
        # Open MPI's ranks would listen on every interface for peers that cannot come.
        ours |= {"OMPI_MCA_btl": "^tcp", "OMPI_MCA_oob_tcp_if_include": "127.0.0.0/8"}
    if os.geteuid() == 0:
        # Who is root here is so in a container; Open MPI would ask to be told twice.
        ours |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return ours


def main(arguments=None):
    """Become the launcher of a command's ranks; returns only if it cannot, with the status to give."""
    parser = argparse.ArgumentParser(prog="python -m cluster.launcher", description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, help="ranks; as many as the job has places for, or 2 outside of a job")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    try:
        ranks = allocation.ranks() if given.n is None else given.n
        if ranks < 1 or not given.command:
            parser.error(f"expected a command and 1 rank or more, found {ranks} and {given.command}")
        words = command(ranks, *given.command)
        # Without the variables that Open MPI is told to hand over, which fill lines.
        shown = re.sub(r" -x \w+", "", shlex.join([name(), *words[1:]]).replace(sys.executable, "python"))
        print("+", shown, file=sys.stderr, flush=True)
        os.execvpe(words[0], words, {**os.environ, **environment()})
    except (allocation.AllocationError, ValueError) as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"{name()} cannot be started: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
