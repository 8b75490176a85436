"""Register the scaling study with Balsam: a job for each number of nodes, and for each of Horovod's settings.

    python -m cluster.balsam.add_jobs --site polaris --nodes 1 2 4 8 --ranks-per-node 8 --threads-per-rank 4

The jobs wait at the site until one of its launchers takes them, and `cluster.balsam.collect` fetches their results.
README.md beside this file describes all steps.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from cluster import scaling
from cluster.balsam import server
from helpers import ROOT


def jobs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the fields of each of the study's jobs, for the options of `parsed`."""
    per_node = options.ranks_per_node
    study = argparse.Namespace(
        **vars(options),
        ranks=[nodes * per_node for nodes in options.nodes],
        settings_at=options.settings_nodes * per_node,
        output=".",  # the folder that Balsam creates for each job
    )
    return [_job(options, *launch) for launch in scaling.launches(study)]


def _job(options: argparse.Namespace, ranks: int, words: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Return Balsam's fields of one launch of the study."""
    setting = next((word.removeprefix("--setting=") for word in words if word.startswith("--setting=")), "default")
    # The command sets the variables, because Open MPI gives remote ranks none of the launcher's environment.
    variables = [f"{key}={value}" for key, value in {"PYTHONPATH": str(ROOT), **environment}.items()]
    return {
        "workdir": f"{options.study}/{setting}-{ranks}-ranks",
        "num_nodes": ranks // options.ranks_per_node,
        "ranks_per_node": options.ranks_per_node,
        "threads_per_rank": options.threads_per_rank,
        "command": shlex.join(["exec", "env", *variables, sys.executable, "-m", "helpers.step_times", *words]),
        # The launcher that MPI=wheel installs lies beside this Python.
        "data": {"before": [*options.before, f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"]},
    }


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line. A wrong one ends the program with one line that says why."""
    parser = argparse.ArgumentParser(prog="python -m cluster.balsam.add_jobs", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--site", required=True, help="name of a site, as `balsam site ls` prints it")
    add("--study", default="scaling", help="name of the study: tag of its jobs and their folder in the site's data/")
    add("--nodes", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of nodes, one job for each")
    add("--ranks-per-node", type=int, default=1)
    add("--threads-per-rank", type=int, default=1)
    scaling.add_measurement_options(parser)
    add("--settings-nodes", type=int, default=2, help="number of nodes for Horovod's settings; 0: none")
    add("--before", nargs="+", default=[], metavar="LINE", help='lines of shell, such as "module load cray-mpich"')
    add("--dry-run", action="store_true", help="print the jobs and register none, without asking Balsam")
    options = parser.parse_args(arguments)
    smallest = min(*options.nodes, options.ranks_per_node, options.threads_per_rank, options.settings_nodes + 1)
    if smallest < 1 or options.global_batch < max(options.nodes) * options.ranks_per_node:
        parser.error("numbers must be 1 or more, and --global_batch must have at least one example for each rank")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Register the jobs.

    Args:
      arguments: words of the command line, None for `sys.argv`.

    Returns:
      The exit status: 0, or 1 if Balsam refused.
    """
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
