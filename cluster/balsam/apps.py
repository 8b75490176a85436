"""Define the course's application for Balsam, and ask Balsam's server. This file runs in Balsam's environment.

`cluster.balsam.add_jobs` and `cluster.balsam.collect` start it with $BNN_BALSAM_PYTHON. The question comes as JSON on
standard input, and the answer goes as JSON to standard output.
"""

import json
import sys
from typing import Any

from balsam import api
from balsam.api import ApplicationDefinition, Job, Site

RETRIES = 2  # because Balsam's own ten would take half an hour


def application(site_id: int) -> type[ApplicationDefinition]:
    """Return the application for the site of this number."""

    class BNNCourse(ApplicationDefinition):
        """A command of the Bayesian neural network course, on all ranks of a job."""

        site = site_id
        # Balsam puts the site's launcher and the job's numbers before it, so it does not say how ranks are started.
        command_template = "sh -c {{ command }}"

        def shell_preamble(self) -> list[str]:
            """Return the lines of shell that run before the launcher."""
            return self.job.data["before"]

    return BNNCourse


def register(site: Site, study: str, jobs: list[dict[str, Any]]) -> list[int]:
    """Send the application and the jobs of the study to Balsam's server.

    Args:
      site: where the jobs will run.
      study: name of the study, which becomes a tag of its jobs. The program ends if the site has jobs with it.
      jobs: for each job, the fields that Balsam gives it.

    Returns:
      The numbers of the jobs, in the same order.
    """
    if Job.objects.filter(site_id=site.id, tags=[f"study:{study}"]).count():
        sys.exit(f"{site.name} already has jobs of a study {study!r}; choose another name (--study)")
    app = application(site.id)
    app.sync()
    made = [app.submit(save=False, tags={"study": study}, **job) for job in jobs]
    return [job.id for job in Job.objects.bulk_create(made)]


def report(site: Site, study: str) -> list[dict[str, Any]]:
    """Return `id`, `state` and `folder` of each of the study's jobs. `folder` is where the job runs."""
    jobs = Job.objects.filter(site_id=site.id, tags=[f"study:{study}"])
    folder = site.path / "data"
    return [{"id": job.id, "state": job.state.value, "folder": str(folder / job.workdir)} for job in jobs]


def main() -> None:
    """Answer the question on standard input, or end the program with one line that says why this is not possible."""
    question = json.load(sys.stdin)
    if api.client is None:
        sys.exit("Balsam has no login for you. Run `balsam login`.")
    api.client.retry_count = RETRIES
    try:
        sites = {site.name: site for site in Site.objects.all()}
    except TimeoutError as error:
        first = str(error).splitlines()[0]
        sys.exit(
            f"Balsam's server {api.client.api_root} does not answer: {first} "
            "Check that it runs, and that you have run `balsam login`."
        )
    name = question.pop("site")
    if name not in sites:
        sys.exit(f"Balsam knows no site {name!r} of yours; it knows {', '.join(sorted(sites)) or 'none'} (--site)")
    answer_to = register if question.pop("ask") == "register" else report
    answer = answer_to(sites[name], **question)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
