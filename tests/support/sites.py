"""What each site allows a job, from its manual, and what is wrong with a job script that asks for something else.

The ALCF's pages are those of github.com/argonne-lcf/user-guides at commit 7d04a3f (19 August 2026), and for Theta those
before commit 91dabfb2 (12 March 2024). NERSC's limits are those of docs.nersc.gov/jobs/policy/, read in copies of July
and August 2026.
"""

import re
import shlex
from dataclasses import dataclass, field

from tests.support import fake_launchers

SIGNAL = (60, 600)  # seconds before the limit at which a training may be asked to stop


@dataclass(frozen=True)
class Site:
    """A site's nodes and queues.

    Attributes:
      scheduler: cobalt, pbs or slurm.
      cores: cores of a node. CPU number n is a hardware thread of core n % cores.
      threads: hardware threads that a job may use of each core.
      reserved: cores that belong to the system.
      queues: for each queue the fewest and most nodes (GPUs in Sophia's by-gpu), and the shortest and longest minutes.
      filesystems: names that -l filesystems= knows, and that a script must give.
      system: what -l select=N:system= must say; "" if the manual does without it.
      scatter: whether -l place=scatter is needed for a node a chunk.
      nearest: for each GPU of a node the cores nearest to it, if the manual says it.
      domains: cores of a NUMA domain, for srun's map_ldom.
    """

    scheduler: str
    cores: int
    queues: dict
    threads: int = 1
    reserved: frozenset = frozenset()
    filesystems: frozenset = frozenset()
    system: str = ""
    scatter: bool = True
    gpus: int = 0
    nearest: dict = field(default_factory=dict)
    domains: int = 0


_HOUR = 60
SITES = {
    # docs/theta/queueing-and-running-jobs/job-and-queue-scheduling.md. The longest time in default depends on the
    # number of nodes.
    "theta": Site(
        "cobalt", 64, {"debug-cache-quad": (1, 8, 1, _HOUR), "default": (128, 4392, 30, 24 * _HOUR)}, threads=2
    ),
    # docs/polaris/running-jobs/index.md and docs/polaris/running-jobs/using-gpus.md
    "polaris": Site(
        "pbs",
        32,
        {
            "debug": (1, 2, 5, _HOUR),
            "debug-scaling": (1, 10, 5, _HOUR),
            "prod": (10, 496, 5, 24 * _HOUR),
            "preemptable": (1, 10, 5, 72 * _HOUR),
            "capacity": (1, 4, 5, 168 * _HOUR),
        },
        filesystems=frozenset({"home", "eagle"}),
        system="polaris",
        gpus=4,
        nearest={gpu: set(range(24 - 8 * gpu, 32 - 8 * gpu)) for gpu in range(4)},
    ),
    # docs/crux/queueing-and-running-jobs/running-jobs.md
    "crux": Site(
        "pbs",
        128,
        {"debug": (1, 8, 5, 2 * _HOUR), "workq-route": (1, 184, 5, 24 * _HOUR), "preemptable": (1, 10, 5, 72 * _HOUR)},
        filesystems=frozenset({"home", "eagle"}),
        system="crux",
    ),
    # docs/aurora/running-jobs-aurora.md
    "aurora": Site(
        "pbs",
        104,
        {
            "debug": (1, 2, 5, _HOUR),
            "debug-scaling": (2, 256, 5, _HOUR),
            "prod": (256, 10624, 5, 24 * _HOUR),
            "capacity": (1, 16, 5, 168 * _HOUR),
        },
        reserved=frozenset({0, 52}),
        filesystems=frozenset({"home", "flare"}),
    ),
    # docs/sophia/queueing-and-running-jobs/running-jobs.md
    "sophia": Site(
        "pbs",
        128,
        {"by-gpu": (1, 8, 5, 24 * _HOUR), "by-node": (1, 8, 5, 24 * _HOUR)},
        filesystems=frozenset({"home", "eagle"}),
        scatter=False,
        gpus=8,
    ),
    # docs.nersc.gov/jobs/policy/ and docs.nersc.gov/systems/perlmutter/running-jobs/
    "perlmutter": Site(
        "slurm",
        64,
        {"debug": (1, 8, 1, 30), "regular": (1, 1792, 1, 48 * _HOUR), "preempt": (1, 128, 120, 48 * _HOUR)},
        gpus=4,
        nearest={gpu: set(range(48 - 16 * gpu, 64 - 16 * gpu)) for gpu in range(4)},
        domains=16,
    ),
}


@dataclass(frozen=True)
class Request:
    """What a job script asks for; `minutes` is its limit and `signal` the seconds of SIGUSR1 before it, or None."""

    queue: str
    nodes: int
    minutes: float
    ranks: int  # on each node
    threads: int
    bind: str
    signal: int | None
    options: tuple


def request(site, text):
    """The `Request` of a script's directives and of the lines that lay out its ranks."""
    options = _slurm(text) if site.scheduler == "slurm" else fake_launchers.directives(site.scheduler, text)
    given = dict(options)
    resources = _resources(options)
    if site.scheduler == "cobalt":
        queue, nodes, minutes = given["-q"], int(given["-n"]), float(given["-t"])
    elif site.scheduler == "pbs":
        queue, nodes = given["-q"], int(resources["select"].partition(":")[0])
        minutes = _minutes(resources["walltime"])
    else:
        queue, nodes, minutes = given["--qos"], int(given["--nodes"]), _minutes(given["--time"])
    code = "\n".join(line for line in text.replace("\\\n", " ").splitlines() if not line.startswith("#"))
    ranks = _number(r"(?:PPN|BNN_RANKS_PER_NODE)=(\d+)", code) or int(given.get("--ntasks-per-node", 0))
    threads = _number(r"(?:THREADS|OMP_NUM_THREADS)=(\d+)", code)
    bind = re.search(r"(?:\bBIND=|BNN_CPU_BIND=|--cpu-bind[= ]|--bind-to |-cc )([a-z][\w:,-]*)", code)
    after = _number(r"timeout .*--signal=USR1 (\d+)", code)
    signal = int(60 * minutes - after) if after else _number(r"USR1@(\d+)", given.get("--signal", "")) or None
    return Request(queue, nodes, minutes, ranks, threads, bind[1] if bind else "depth", signal, tuple(options))


def _resources(options):
    return dict(part.split("=", 1) for name, value in options if name == "-l" for part in value.split(","))


def _slurm(text):
    lines = [line for line in text.splitlines() if line.startswith("#SBATCH ")]
    words = [word for line in lines for word in shlex.split(line.removeprefix("#SBATCH "))]
    return [(name, value) for name, _, value in (word.partition("=") for word in words)]


def _minutes(text):
    return sum(int(part) * 60.0**-n for n, part in enumerate(text.split(":"), -1))


def _number(pattern, text):
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def places(site, asked):
    """The CPUs of each rank of a node, as sets of their numbers."""
    if asked.bind == "depth":
        # Hardware thread after hardware thread, first one of each core.
        usable = [n for n in range(site.cores * site.threads) if n % site.cores not in site.reserved]
        step = asked.threads // site.threads
        cores = [usable[step * rank : step * (rank + 1)] for rank in range(asked.ranks)]
        return [{n + site.cores * j for n in those for j in range(site.threads)} for those in cores]
    kind, _, rest = asked.bind.partition(":")
    if kind == "list":
        return [{n for part in one.split(",") for n in _range(part)} for one in rest.split(":")]
    if kind == "map_ldom":
        firsts = [int(domain) * site.domains for domain in rest.split(",")]
        return [set(range(first, first + site.domains)) for first in firsts]
    assert asked.bind == "none", asked.bind
    return None


def _range(text):
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def faults(site, text):
    """What is wrong with a script, as a list of sentences; empty if nothing is."""
    asked = request(site, text)
    return [*_of_queue(site, asked), *_of_directives(site, asked), *_of_places(site, asked), *_of_signal(asked, text)]


def _of_queue(site, asked):
    if asked.queue not in site.queues:
        return [f"there is no queue {asked.queue}"]
    least, most, shortest, longest = site.queues[asked.queue]
    wrong = []
    if not least <= asked.nodes <= most:
        wrong.append(f"queue {asked.queue} takes {least} to {most} nodes, not {asked.nodes}")
    if asked.queue == "by-gpu" and asked.nodes not in (1, 2, 4, 8):
        wrong.append(f"queue by-gpu takes 1, 2, 4 or 8 GPUs, not {asked.nodes}")
    if not shortest <= asked.minutes <= longest:
        wrong.append(f"queue {asked.queue} takes {shortest} to {longest} minutes, not {asked.minutes:g}")
    return wrong


def _of_directives(site, asked):
    given = dict(asked.options)
    account = "--account" if site.scheduler == "slurm" else "-A"
    wrong = [] if given.get(account) == "PROJECT" else [f"{account} does not say PROJECT"]
    if site.scheduler == "pbs":
        resources = _resources(asked.options)
        if not set(resources) <= {"select", "place", "walltime", "filesystems"}:
            wrong.append(f"unknown resources in {sorted(resources)}")
        if set(filter(None, resources.get("filesystems", "").split(":"))) != site.filesystems:
            wrong.append(f"filesystems are not {sorted(site.filesystems)}")
        if resources["select"].partition(":")[2] != (f"system={site.system}" if site.system else ""):
            wrong.append(f"select is {resources['select']}")
        if (resources.get("place") == "scatter") != site.scatter:
            wrong.append(f"place is {resources.get('place')}")
    if site.scheduler == "slurm" and site.gpus:
        if given.get("--constraint") != "gpu" or given.get("--gpus-per-node") != str(site.gpus):
            wrong.append("it does not ask for all GPUs of GPU nodes")
        if asked.ranks * int(given["--cpus-per-task"]) > 2 * site.cores:
            wrong.append(f"{asked.ranks} tasks of {given['--cpus-per-task']} CPUs do not fit on a node")
    return wrong


def _of_places(site, asked):
    wrong = []
    if asked.ranks * asked.threads > (site.cores - len(site.reserved)) * site.threads:
        wrong.append(f"{asked.ranks} ranks of {asked.threads} threads do not fit on the cores of a node")
    gpus = asked.nodes if asked.queue == "by-gpu" else site.gpus
    if gpus and asked.ranks != gpus:
        wrong.append(f"{asked.ranks} ranks for {gpus} GPUs")
    places_of = places(site, asked)
    if places_of is None:
        return wrong
    if len(places_of) != asked.ranks or any(len(cpus) != asked.threads for cpus in places_of):
        wrong.append(f"the binding {asked.bind} is not one of {asked.ranks} ranks with {asked.threads} threads each")
    cores = [{cpu % site.cores for cpu in cpus} for cpus in places_of]
    if any(max(cpus, default=0) >= 2 * site.cores for cpus in places_of):
        wrong.append("a rank is bound to a CPU that is not there")
    if sum(map(len, cores)) != len(set().union(*cores)):
        wrong.append("two ranks share a core")
    if set().union(*cores) & site.reserved:
        wrong.append("a rank is bound to a reserved core")
    for rank, those in enumerate(cores):
        if site.nearest and not those <= site.nearest.get(rank, set()):
            wrong.append(f"rank {rank} is not on the cores nearest to GPU {rank}")
    return wrong


def _of_signal(asked, text):
    if "helpers.train" not in text:
        return []
    if asked.signal is None or not SIGNAL[0] <= asked.signal <= SIGNAL[1]:
        return [f"SIGUSR1 comes {asked.signal} seconds before the limit, not {SIGNAL[0]} to {SIGNAL[1]}"]
    return []
