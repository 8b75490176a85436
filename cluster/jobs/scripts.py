"""A job as PSI/J has it: what runs on its first node, what it asks for, and the script that is submitted."""

import io
import os
import re
import shlex
import shutil
import sys
from datetime import timedelta

from cluster.jobs import states as jobs
from cluster.jobs.states import JobError
from helpers import ROOT

import psij
from psij.executors.batch.batch_scheduler_executor import BatchSchedulerExecutorConfig

# Seconds before its limit at which a training job is told to stop at a checkpoint, but at most a quarter of the limit.
AHEAD = 120
_NEVER = 10**8  # seconds: PSI/J need not look after the job, as the command that submits it does not stay
# By scheduler: options with a value, and options without. Sources: sbatch(1) of Slurm 22.05, the qsub sections of the
# PBS Professional reference guide and of Cobalt's manual. What the course sets itself is not among them.
_OPTIONS = {
    "slurm": (
        "acctg-freq array batch bb bbf begin cluster-constraint clusters comment constraint container core-spec "
        "cores-per-socket cpu-freq cpus-per-gpu deadline delay-boot dependency distribution exclude exclusive "
        "extra-node-info gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint "
        "kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus "
        "network nice nodelist ntasks-per-core ntasks-per-gpu ntasks-per-socket open-mode power prefer priority "
        "profile propagate qos reservation signal sockets-per-node switches thread-spec threads-per-core time-min tmp "
        "wait-all-nodes wckey",
        "contiguous exclusive hold no-kill no-requeue overcommit oversubscribe reboot requeue spread-job use-min-nodes",
    ),
    "pbs": ("a c h J k l m M p P r u v W select", ""),
    "cobalt": ("attrs debuglog dependencies env notify run_users umask user_list", ""),
}
_CARRIED = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")  # for Cobalt, which hands over nothing of the environment


def submit(options, folder):
    """Make the job's folder and submit it; returns the scheduler's number of it, as text.

    Raises:
      JobError: bad attributes, or the scheduler is missing, does not answer, or does not take the job.
    """
    scheduler = options.scheduler
    executor, job = _executor(scheduler, options), _job(options, folder)
    missing = jobs.missing(scheduler)
    if missing:
        raise JobError(f"{', '.join(missing)}: not on the PATH. Is this a login node of a machine with {scheduler}?")
    try:
        folder.mkdir(parents=True)
        executor.submit(job)
    except (OSError, psij.SubmitException) as error:
        raise JobError(f"{scheduler} did not take the job: {' '.join(str(error).split())}") from error
    finally:
        if job.native_id is None:
            shutil.rmtree(folder, ignore_errors=True)
    return str(job.native_id)


def script(options, folder):
    """What `submit` would submit: the script, or on this machine the command. Nothing is submitted.

    Raises:
      JobError: bad attributes.
    """
    executor, job = _executor(options.scheduler, options), _job(options, folder)
    if options.scheduler == "local":
        return shlex.join(executor._get_launcher("single").get_launch_command(job))
    text = io.StringIO()
    executor.generate_submit_script(job, executor._create_script_context(job), text)
    return text.getvalue().rstrip()


def cancel(record, folder):
    """Have the job ended; it may last some seconds.

    Raises:
      JobError: the scheduler does not answer, or refuses.
    """
    if record["scheduler"] == "local":
        jobs.stop_local(record, folder)
    else:
        jobs.ask(_executor(record["scheduler"]).get_cancel_command(record["id"]))


def _job(options, folder):
    """Keeper and command on the first node, which starts the ranks by itself.

    PSI/J's own launchers know no ranks per node, no depth and no binding; cluster/launcher.py does.
    """
    if re.search(r"\s", f"{folder}{ROOT}"):
        raise JobError(f"PSI/J's scripts cannot work in a folder with a space in its name: {folder}")
    ranks = options.nodes * options.ranks_per_node
    python = [sys.executable, "-m"]
    if options.what == "train":
        threads = [f"--num_intra={options.threads}"] if options.threads > 1 else []
        words = [*python, "cluster.launcher", "-n", str(ranks), *python, "helpers.train", *threads, *options.rest]
    else:
        words = [*python, "cluster.run_notebooks", "--ranks", str(ranks), *options.rest]
    given = []
    if options.scheduler == "cobalt":
        given += [f"{key}={value}" for key, value in os.environ.items() if key in _CARRIED or key.startswith("BNN_")]
    given += [f"OMP_NUM_THREADS={options.threads}", f"BNN_RANKS_PER_NODE={options.ranks_per_node}"]
    limit = options.time if options.scheduler == "local" else 0
    stop = options.time - min(AHEAD, options.time // 4) if options.what == "train" else 0
    resources = psij.ResourceSpecV1(
        node_count=options.nodes,
        processes_per_node=options.ranks_per_node,
        cpu_cores_per_process=options.threads,
        exclusive_node_use=options.exclusive,
    )
    specification = psij.JobSpec(
        executable="/usr/bin/env",
        arguments=[*given, *python, "cluster.jobs.wrapper", str(folder), str(limit), str(stop), *words],
        directory=ROOT,
        stderr_path=folder / "launch.txt",
        launcher="single",
        resources=resources,
        attributes=_attributes(options),
    )
    return psij.Job(specification)


def _attributes(options):
    """Time, queue, account and whatever else was asked for."""
    family = options.scheduler.partition("_")[0]
    asked = options.queue or options.account or options.attribute or options.nodes > 1 or options.exclusive
    if family == "local" and asked:
        raise JobError("this machine is one node without queues, accounts and attributes: --scheduler names another")
    for name in ("filesystems", "system"):
        if getattr(options, name) and (family != "pbs" or (name == "system" and options.scheduler != "pbs")):
            raise JobError(f"{options.scheduler} has no --{name}: it is an option of PBS Professional. Leave it out")
    if options.exclusive and family == "cobalt":
        raise JobError("cobalt has no --exclusive: it always gives whole nodes. Leave it out")
    name = {"slurm": "job-name", "pbs": "N", "cobalt": "jobname"}.get(family)
    custom = {f"{family}.{name}": f"bnn-{options.what}"} if name else {}
    resources = [f"l=filesystems={options.filesystems}"] if options.filesystems else []
    for text in resources + options.attribute:
        key, value = _option(family, text)
        # PBS takes several of its many -l in one.
        before = custom.get(f"{family}.{key}")
        custom[f"{family}.{key}"] = f"{before},{value}" if before and family == "pbs" and key == "l" else value
    return psij.JobAttributes(
        duration=timedelta(seconds=options.time),
        queue_name=options.queue,
        account=options.account,
        custom_attributes=custom,
    )


def _option(family, text):
    """The name and the value of an --attribute; the value is empty for options that have none.

    Raises:
      JobError: it is misspelt, or the scheduler has no such option.
    """
    name, equals, value = text.partition("=")
    valued, bare = (words.split() for words in _OPTIONS[family])
    if name in bare and not equals:
        return name, ""
    if not equals or not re.fullmatch(r"[\w-]+", name) or not re.fullmatch(r"[\w@%+=:,./&-]+", value):
        raise JobError(f"--attribute {text!r}: expected NAME=VALUE without spaces, as in qos=debug")
    if name not in valued:
        hint = f"; a resource is written l={text}" if family == "pbs" and len(name) > 1 else ""
        raise JobError(f"--attribute {text!r}: {family} has no option {name} that can be set here{hint}")
    return name, value


def _executor(scheduler, options=None):
    """PSI/J's executor, whose commands have a time limit here, and whose scripts are mended."""
    config = BatchSchedulerExecutorConfig(
        work_directory=jobs.FOLDER / "psij", initial_queue_polling_delay=_NEVER, keep_files=True
    )
    executor = psij.JobExecutor.get_instance(scheduler, config=config)
    if scheduler != "local":
        write = executor.generate_submit_script

        def generate(job, context, file):
            text = io.StringIO()
            write(job, context, text)
            file.write(_mended(text.getvalue(), job, options))

        executor.generate_submit_script = generate
        executor._run_command = jobs.ask
    return executor


def _mended(text, job, options):
    """The script that PSI/J 0.9.11 makes, with what it gets wrong put right.

    Its Cobalt template loses the time limit, quotes values, which Cobalt takes for a part of them, and has empty
    lines among the directives, after which Cobalt reads no more of them. Those for PBS count no threads, know no
    resource of a site on each chunk, and allow other jobs on the nodes. Its Slurm template gives every option a value.
    And all its scripts end with status 0, whatever their command's was.
    """
    text = re.sub("#COBALT --time=.*", f"#COBALT --time={-(-options.time // 60)}", text)
    text = re.sub("(?m)^#COBALT .*", lambda line: line[0].replace('"', ""), text)
    cores = options.ranks_per_node * options.threads
    text = re.sub(r"(-l select=\d+:ncpus=|-l nodes=\d+:ppn=)\d+", rf"\g<1>{cores}", text)
    chunk = job.spec.attributes.custom_attributes.get("pbs.select")
    system = f"system={options.system}" if options.system else ""
    if chunk := ":".join(filter(None, [system, chunk])):
        text = re.sub('#PBS -select ".*"\n', "", text)
        text = re.sub("(#PBS -l select=.*)", rf"\g<1>:{chunk}", text)
    if "system=" in chunk:
        # Whole nodes: at the ALCF, ncpus would count hardware threads.
        text = re.sub(r"(-l select=\d+):ncpus=\d+:mpiprocs=\d+", r"\g<1>", text)
    text = text.replace("place=scatter:shared", "place=scatter")
    # PSI/J quotes some values twice.
    text = re.sub("""(?m)^(#(?:SBATCH|PBS) .*)"'(.*)'"$""", r'\g<1>"\g<2>"', text)
    text = re.sub('(?m)^(#SBATCH --[a-z-]+)=""$', r"\g<1>", text)
    text = re.sub(r'echo "\$\?" > (.*)', r'status=$?\necho "$status" > \1\nexit "$status"', text)
    *directives, last = re.split(r"(?m)^(?=#(?:COBALT|PBS|SBATCH) )", text)
    text = "".join([*(f"{part.rstrip()}\n" for part in directives), last])
    return re.sub(r"\n{3,}", "\n\n", text)
