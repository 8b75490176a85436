"""Register the scaling study with Balsam: a job for each number of nodes, and for each of Horovod's settings.

    python -m cluster.balsam.add_jobs --site polaris --nodes 1 2 4 8 --ranks-per-node 8 --threads-per-rank 4

Jobs wait at the site until one of its launchers takes them; `cluster.balsam.collect` fetches their results. README.md
beside this file tells the whole way.
"""

import argparse
import shlex
import sys
from pathlib import Path

from cluster import scaling
from cluster.balsam import server
from helpers import ROOT


def jobs(options):
    """The study as Balsam's jobs: a list of dicts, the fields of each."""
    per_node = options.ranks_per_node
    study = argparse.Namespace(
        **vars(options),
        ranks=[nodes * per_node for nodes in options.nodes],
        settings_at=options.settings_nodes * per_node,
        output=".",  # the folder that Balsam makes for each job
    )
    return [_job(options, *launch) for launch in scaling.launches(study)]


def _job(options, ranks, words, environment):
    setting = next((word.removeprefix("--setting=") for word in words if word.startswith("--setting=")), "default")
    # Said in the command: Open MPI alone gives remote ranks none of the launcher's variables.
    variables = [f"{key}={value}" for key, value in {"PYTHONPATH": str(ROOT), **environment}.items()]
    return {
        "workdir": f"{options.study}/{setting}-{ranks}-ranks",
        "num_nodes": ranks // options.ranks_per_node,
        "ranks_per_node": options.ranks_per_node,
        "threads_per_rank": options.threads_per_rank,
        "command": shlex.join(["exec", "env", *variables, sys.executable, "-m", "helpers.step_times", *words]),
        # The launcher of MPI=wheel lies beside this Python.
        "data": {"before": [*options.before, f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"]},
    }


def parsed(arguments):
    """The command's options; ends the program, with a line of its own, at one that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m cluster.balsam.add_jobs", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--site", required=True, help="name of a site, as `balsam site ls` shows it")
    add("--study", default="scaling", help="name of the study; the jobs' tag, and their folder below the site's data/")
    add("--nodes", type=int, nargs="+", default=[1, 2, 4, 8], help="how many; a job for each")
    add("--ranks-per-node", type=int, default=1)
    add("--threads-per-rank", type=int, default=1)
    scaling.measurement(parser)
    add("--settings-nodes", type=int, default=2, help="nodes to try Horovod's settings on; 0: none")
    add("--before", nargs="+", default=[], metavar="LINE", help='lines of shell, as in "module load cray-mpich"')
    add("--dry-run", action="store_true", help="print the jobs and register none; Balsam is not asked")
    options = parser.parse_args(arguments)
    smallest = min(*options.nodes, options.ranks_per_node, options.threads_per_rank, options.settings_nodes + 1)
    if smallest < 1 or options.global_batch < max(options.nodes) * options.ranks_per_node:
        parser.error("numbers must be 1 or more, and --global_batch an example or more for each rank")
    return options


def main(arguments=None):
    """Register the jobs; the exit status is 1 if Balsam refused."""
    options = parsed(arguments)
    wanted = jobs(options)
    for job in wanted if options.dry_run else ():
        print(f"{job['workdir']}: {job['num_nodes']} nodes, {job['ranks_per_node']} ranks on each, "
              f"{job['threads_per_rank']} threads\n    {job['command']}")  # fmt: skip
    if options.dry_run:
        return 0
    try:
        numbers = server.ask("register", site=options.site, study=options.study, jobs=wanted)
    except server.BalsamError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"registered at {options.site}, study {options.study}: jobs {', '.join(map(str, numbers))}")
    print(
        "nodes for them: balsam queue submit -j mpi "
        f"-n {max(job['num_nodes'] for job in wanted)} -t MINUTES -q QUEUE -A PROJECT --tag study={options.study}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
