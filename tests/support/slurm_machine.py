"""A Slurm of this machine alone, for tests: its own munge, controller and node daemons, in one folder.

    python -m tests.support.slurm_machine --nodes 2 COMMAND ...

runs COMMAND with SLURM_CONF set. It needs root and Debian's packages slurmctld, slurmd, slurm-client and munge.
Nothing of the machine's own Slurm or munge is touched, and when it ends no daemon is left.
"""

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel", "srun")
_UP = 30.0  # seconds that the nodes have to come up
# A plugin for cgroups or a database would need more of the machine than its owner may want to give.
_CONFIG = """
ClusterName=course
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SchedulerParameters=sched_interval=2,batch_sched_delay=0,sched_min_interval=0
# Seconds: a job over its limit is looked for every 30, is given its time of grace, and then is killed.
OverTimeLimit=0
KillWait=2
ReturnToService=2
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """What is lacking here for a Slurm of one's own: a sentence, or "" if nothing is."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
    if absent:
        return f"no Slurm here: {', '.join(absent)} not found (apt-get install slurmctld slurmd slurm-client munge)"
    return "" if os.geteuid() == 0 else "Slurm's daemons are started by root alone"


def _path():
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


@contextlib.contextmanager
def slurm(nodes=1, pretended="", processors=None):
    """Start a Slurm of this machine alone, and yield the environment that its commands need.

    Args:
      nodes: how many nodes there are.
      pretended: what the nodes claim to have, in the words of slurm.conf; jobs can then be checked, not run.
      processors: how many processors each node claims to have, or None for those of this machine. Slurm binds no job to
        a processor here, so jobs run even where there are fewer.

    Raises:
      RuntimeError: it did not come up in time; with the end of its logs.
    """
    folder = Path(tempfile.mkdtemp(prefix="bnn-slurm-"))
    daemons = []
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    try:
        _write(folder, nodes, pretended, processors)
        _munge(folder, daemons)

        daemons.append(_start(folder, environment, "slurmctld", "-D"))
        for number in range(nodes):
            daemons.append(_start(folder, environment, "slurmd", "-D", "-N", f"node{number}"))
        _await_nodes(folder, nodes, environment, daemons)
        yield environment
    finally:
        _stop(folder, environment, daemons)


def _start(folder, environment, name, *words):
    program = shutil.which(name, path=_path())
    with open(folder / "daemons.out", "ab") as out:
        return subprocess.Popen([program, *words], env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def _write(folder, nodes, pretended="", processors=None):
    """Write the configuration into `folder`."""
    for name in ["state", *(f"spool-node{number}" for number in range(nodes))]:
        (folder / name).mkdir(mode=0o755)
    ports = free_ports(1 + nodes)
    text = _CONFIG.format(folder=folder, ports=ports, host=socket.gethostname().split(".")[0])
    if pretended or processors:
        text += "SlurmdParameters=config_overrides\n"
    if pretended:
        text += "GresTypes=gpu\n"
        for number in range(4):
            (folder / f"gpu{number}").touch()
        (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-3]\n")
    memory = psutil.virtual_memory().total // 2**20 // 2
    for number in range(nodes):
        text += (
            f"NodeName=node{number} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={ports[1 + number]} "
            f"{pretended or f'CPUs={processors or os.cpu_count()}'} RealMemory={memory}\n"
        )
    (folder / "slurm.conf").write_text(text)


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _munge(folder, daemons):
    """Start a munge daemon with a key of its own."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    # --force: munged does not trust a folder below one that others may write to, as that for temporary files is.
    words = ["--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    words += [f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    daemons.append(_start(folder, None, "munged", *words))
    until = time.monotonic() + 10
    while not (folder / "munge.socket").exists():
        if daemons[0].poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"munged did not come up:\n{_logs(folder)}")
        time.sleep(0.05)


def _await_nodes(folder, nodes, environment, daemons):
    until = time.monotonic() + _UP
    while True:
        answer = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--format=%T"],
            env=environment, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        if answer.stdout.split() == ["idle"] * nodes:
            return
        if time.monotonic() > until or any(daemon.poll() is not None for daemon in daemons):
            raise RuntimeError(f"Slurm did not come up: sinfo says {answer.stdout or answer.stderr!r}\n{_logs(folder)}")
        time.sleep(0.2)


def _logs(folder, lines=8):
    parts = [f"{path.name}:\n" + "\n".join(path.read_text().splitlines()[-lines:]) for path in folder.glob("*.log")]
    return "\n".join([*parts, (folder / "daemons.out").read_text()])


def _stop(folder, environment, daemons):
    """End jobs and daemons, the node daemons before the others, and remove the folder."""
    with contextlib.suppress(subprocess.SubprocessError):
        subprocess.run(["scancel", "--user=root"], env=environment, capture_output=True, timeout=10)
        _await_no_jobs(environment)
    family = [process for process in psutil.process_iter() if _ours(process, folder)]
    for daemon in reversed(daemons):
        daemon.terminate()
    for daemon in daemons:
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=5)
    shutil.rmtree(folder, ignore_errors=True)


def _await_no_jobs(environment):
    until = time.monotonic() + 15
    while time.monotonic() < until:
        left = subprocess.run(["squeue", "--noheader"], env=environment, capture_output=True, text=True, timeout=10)
        if not left.stdout.strip():
            return
        time.sleep(0.3)


def _ours(process, folder):
    """Whether the Slurm in `folder` started this process: a job's inherit its settings, a keeper holds its log."""
    with contextlib.suppress(psutil.Error, OSError):
        if process.pid in (os.getpid(), os.getppid()):
            return False
        if process.environ().get("SLURM_CONF") == f"{folder}/slurm.conf" and "SLURM_JOB_ID" in process.environ():
            return True
        return any(file.path.startswith(f"{folder}/") for file in process.open_files())
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if missing():
        sys.exit(missing())
    with slurm(options.nodes) as environment:
        sys.exit(subprocess.run(options.command or ["sinfo"], env=environment).returncode)


if __name__ == "__main__":
    main()
