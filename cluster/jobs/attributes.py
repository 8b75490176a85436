"""Check what a job asks of its scheduler: time, queue, account, and the scheduler's own options."""

import argparse
import re
from datetime import timedelta

from cluster.jobs.states import JobError

import psij

_PLAIN = r"[\w@%+=:,./&-]+"  # values that a directive can hold; Cobalt splits at white space and knows no quotes
_PBS = "N a c h k l m M p P r u v W"
_ARRAYS = {"slurm": ("array", "a"), "pbs": ("J",), "pbs_classic": ("t",), "cobalt": ()}  # the options of job arrays
NO_ARRAY = (
    "cluster.submit takes no job arrays, because each of its jobs has one folder and one exit status. "
    "Submit a job for each value, or let one job run several values with `notebooks ... -- --sweep NAME=VALUE,VALUE`"
)
NAMES = ("job-name", "N", "jobname")  # the options that name a job, for Slurm, PBS and Cobalt
# By scheduler: options with a value, and options without. Sources: sbatch(1) of Slurm 22.05, the qsub sections of the
# PBS Professional reference guide and of Cobalt's manual. Options that the course sets itself are left out.
_OPTIONS = {
    "slurm": (
        "acctg-freq batch bb bbf begin cluster-constraint clusters comment constraint container core-spec "
        "cores-per-socket cpu-freq cpus-per-gpu deadline delay-boot dependency distribution exclude exclusive "
        "extra-node-info gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint "
        "job-name kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu "
        "mincpus network nice nodelist ntasks-per-core ntasks-per-gpu ntasks-per-socket open-mode power prefer "
        "priority profile propagate qos reservation signal sockets-per-node switches thread-spec threads-per-core "
        "time-min tmp wait-all-nodes wckey",
        "contiguous exclusive hold no-kill no-requeue overcommit oversubscribe reboot requeue spread-job use-min-nodes",
    ),
    "pbs": (f"{_PBS} select", ""),
    "pbs_classic": (_PBS, ""),
    "cobalt": ("attrs debuglog dependencies env jobname notify run_users umask user_list", ""),
}


def checked(options: argparse.Namespace) -> psij.JobAttributes:
    """Return time limit, queue and account of the job, and as custom attributes the scheduler's own options by name.

    Args:
      options: The options of `cluster.submit`, with the scheduler's name in `scheduler`.

    Raises:
      JobError: The scheduler has no such option, the option makes a job array, or a value is malformed.
    """
    scheduler = options.scheduler
    asked = options.queue or options.account or options.attribute or options.nodes > 1 or options.exclusive
    if scheduler == "local" and asked:
        raise JobError("this machine is one node without queues, accounts and attributes: --scheduler names another")
    for name, having in {"filesystems": ("pbs", "pbs_classic"), "system": ("pbs",)}.items():
        if getattr(options, name) and scheduler not in having:
            raise JobError(f"{scheduler} has no --{name}, which is an option of PBS Professional. Leave it out")
    if options.exclusive and scheduler == "cobalt":
        raise JobError("cobalt has no --exclusive, because it always gives whole nodes. Leave it out")
    for name in ("queue", "account", "filesystems", "system"):
        value = getattr(options, name)
        if value is not None and not re.fullmatch(_PLAIN, value):
            raise JobError(f"--{name} {value!r}: expected a name without spaces and quotes")
    custom: dict[str, object] = {}
    texts = [f"select=system={options.system}"] if options.system else []
    texts += [f"l=filesystems={options.filesystems}"] if options.filesystems else []
    for text in texts + options.attribute:
        name, value = _option(scheduler, text)
        # PBS takes several resources in one -l, and several of a chunk in one select. Else the last value counts.
        joint = {"l": ",", "select": ":"}.get(name) if scheduler.startswith("pbs") else None
        custom[name] = f"{custom[name]}{joint}{value}" if joint and name in custom else value
    return psij.JobAttributes(
        duration=timedelta(seconds=options.time),
        queue_name=options.queue,
        account=options.account,
        custom_attributes=custom,
    )


def _option(scheduler: str, text: str) -> tuple[str, str]:
    """Return the name and the value of an --attribute. The value is empty for an option that has none."""
    name, equals, value = text.partition("=")
    if name in _ARRAYS[scheduler]:
        raise JobError(f"--attribute {text!r}: {NO_ARRAY}")
    valued, bare = (words.split() for words in _OPTIONS[scheduler])
    if name in bare and not equals:
        return name, ""
    if not equals or not re.fullmatch(r"[\w-]+", name) or not re.fullmatch(_PLAIN, value):
        raise JobError(f"--attribute {text!r}: expected NAME=VALUE without spaces, as in qos=debug")
    if name not in valued:
        resource = scheduler.startswith("pbs") and len(name) > 1 and name != "select"
        hint = f"; a resource is written l={text}" if resource else ""
        raise JobError(f"--attribute {text!r}: {scheduler} has no option {name} that can be set here{hint}")
    return name, value
