"""Report the state of a study's jobs under Balsam, and copy the CSV files of finished jobs into one folder.

    python -m cluster.balsam.collect --site polaris --output build/scaling

Notebook 07 reads that folder.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from cluster.balsam import server
from helpers import ROOT

_LAST_LINES = 20  # of a failed job's output that are shown


def main(arguments: list[str] | None = None) -> int:
    """Report on all jobs and copy their results.

    Args:
      arguments: words of the command line, None for `sys.argv`.

    Returns:
      The exit status: 0 if all jobs have finished and left results, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m cluster.balsam.collect", description=__doc__.splitlines()[0])
    parser.add_argument("--site", required=True, help="name of the site")
    parser.add_argument("--study", default="scaling", help="name of the study, as it was registered")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "scaling", help="folder for the CSV files")
    options = parser.parse_args(arguments)
    try:
        found = server.ask("report", site=options.site, study=options.study)
    except server.BalsamError as error:
        print(error, file=sys.stderr)
        return 1
    if not found:
        print(f"{options.site} has no jobs of a study {options.study!r} (--study)", file=sys.stderr)
    missing = [job for job in found if not collect(job, options.output)]
    return 1 if missing or not found else 0


def collect(job: dict[str, Any], output: Path) -> bool:
    """Print the state of a job, and copy its CSV files if it has finished.

    Args:
      job: its `id`, `state` and `folder`.
      output: folder for the CSV files.

    Returns:
      Whether there were any CSV files to copy.
    """
    folder = Path(job["folder"])
    results = sorted(folder.glob("*.csv")) if job["state"] == "JOB_FINISHED" else []
    names = ", ".join(path.name for path in results)
    print(f"{job['id']:6}  {job['state']:12}  {folder.name}{': ' if names else ''}{names}")
    if job["state"] == "FAILED" and (folder / "job.out").exists():
        print("\n".join((folder / "job.out").read_text(errors="replace").splitlines()[-_LAST_LINES:]))
    output.mkdir(parents=True, exist_ok=True)
    for path in results:
        shutil.copy2(path, output)
    return bool(results)


if __name__ == "__main__":
    sys.exit(main())
