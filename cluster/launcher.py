"""Which program starts the ranks on this machine, with which options and environment."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from cluster import ROOT, leash

import psutil
from ipyparallel.cluster.launcher import LocalControllerLauncher, MPIEngineSetLauncher

LAUNCHERS = ("mpiexec", "aprun", "srun")
# One thread a rank: ranks fill the cores. A job script that gives a rank more says so beforehand.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_THREADS += ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


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
    if "SLURM_JOB_ID" in os.environ and shutil.which("srun"):
        return "srun"
    return "mpiexec"


def search_path():
    """PATH with the folder of this Python first: a kernel started by JupyterHub has not activated it."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def program():
    """The launcher's full path, or None if it is not installed."""
    return shutil.which(name(), path=search_path())


def hosts():
    """The job's hosts, in order and each once; empty where there is no job, or the scheduler does not say."""
    for variable in ("PBS_NODEFILE", "COBALT_NODEFILE"):
        if variable in os.environ:
            return list(dict.fromkeys(Path(os.environ[variable]).read_text().split()))
    if "SLURM_JOB_NODELIST" in os.environ and shutil.which("scontrol"):
        ask = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
        return subprocess.run(ask, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    return []


def spans_hosts():
    """Whether ranks run on other hosts than this one. Under aprun always: its caller is no compute node."""
    return name() == "aprun" or len(hosts()) > 1


def address():
    """Where the controller listens: loopback, or on many hosts the one address that the others reach."""
    if not spans_hosts():
        return "127.0.0.1"
    others = [host for host in hosts() if host != socket.gethostname()] or [socket.gethostname()]
    # Connecting a datagram socket sends nothing; it asks the routing table which interface would.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((others[0], 9))
        return probe.getsockname()[0]


def cores():
    """Physical cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def options(ranks):
    """The launcher's options for `ranks` ranks beside their number, as a list of words."""
    if name() == "aprun":
        return ["-b", "-cc", "depth"]
    if name() == "srun":
        return ["--cpu-bind=cores", "--kill-on-bad-exit=1"]
    version = subprocess.run([program() or name(), "--version"], capture_output=True, text=True, timeout=30)
    if not any(word in version.stdout for word in ("Open MPI", "OpenRTE")):
        return []
    if spans_hosts():
        # Open MPI alone among the launchers gives remote ranks none of this environment.
        theirs = {"IPP_CONNECTION_INFO", "IPP_CLUSTER_ID", "IPP_PROFILE_DIR", *environment()}
        theirs |= {key for key in os.environ if key.startswith("BNN_")}
        return ["-bind-to", "core"] + [word for key in sorted(theirs) for word in ("-x", key)]
    return ["-bind-to", "core"] if ranks <= cores() else ["--oversubscribe"]


def environment():
    """What the ranks' environment has beside this process's, as a dict."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    ours = {"PATH": search_path(), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    ours |= {variable: os.environ.get(variable, "1") for variable in _THREADS}
    ours["TF_CPP_MIN_LOG_LEVEL"] = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")
    if not spans_hosts():
        # Open MPI's ranks would listen on every interface for peers that cannot come.
        ours |= {"OMPI_MCA_btl": "^tcp", "OMPI_MCA_oob_tcp_if_include": "127.0.0.0/8"}
    if os.geteuid() == 0:
        # Who is root here is so in a container; Open MPI would ask to be told twice.
        ours |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return ours


class ControllerLauncher(LocalControllerLauncher):
    """ipyparallel's controller, on the leash of the process that started it."""

    def find_args(self):
        return leash.command(self.profile_dir) + super().find_args()

    def get_env(self):
        return {**environment(), **super().get_env()}


class RankLauncher(MPIEngineSetLauncher):
    """One engine a rank, started by this machine's launcher, on the same leash."""

    def find_args(self):
        start = [program() or name(), "-n", str(self.n), *options(self.n)]
        return leash.command(self.profile_dir) + start + self.program + self.program_args

    def get_env(self):
        return {**environment(), **super().get_env()}
