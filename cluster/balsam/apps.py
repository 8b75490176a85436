"""The course's application for Balsam, and what is asked of Balsam's server. This file runs in Balsam's environment.

`cluster.balsam.add_jobs` and `cluster.balsam.collect` start it with $BNN_BALSAM_PYTHON: what is asked comes as JSON on
standard input, the answer goes as JSON to standard output.
"""

import json
import sys

from balsam import api
from balsam.api import ApplicationDefinition, Job, Site

RETRIES = 2  # Balsam's own ten would take half an hour


def application(site_id):
    """The application as that site is to know it."""

    class BNNCourse(ApplicationDefinition):
        """A command of the Bayesian neural network course, on all ranks of a job."""

        site = site_id
        # How ranks are started is no part of it: Balsam puts the site's launcher before it, with the job's numbers.
        command_template = "sh -c {{ command }}"

        def shell_preamble(self):
            return self.job.data["before"]

    return BNNCourse


def register(site, study, jobs):
    """Send the application and the study's jobs, each a dict of Balsam's fields; their numbers, in the same order."""
    if Job.objects.filter(site_id=site.id, tags=[f"study:{study}"]).count():
        sys.exit(f"{site.name} already has jobs of a study {study!r}; choose another name (--study)")
    app = application(site.id)
    app.sync()
    made = [app.submit(save=False, tags={"study": study}, **job) for job in jobs]
    return [job.id for job in Job.objects.bulk_create(made)]


def report(site, study):
    """What became of the study's jobs: a list of dicts with number, state, and the folder it ran in."""
    jobs = Job.objects.filter(site_id=site.id, tags=[f"study:{study}"])
    folder = site.path / "data"
    return [{"id": job.id, "state": job.state.value, "folder": str(folder / job.workdir)} for job in jobs]


def main():
    asked = json.load(sys.stdin)
    if api.client is None:
        sys.exit("Balsam has no login of yours: balsam login")
    api.client.retry_count = RETRIES
    try:
        sites = {site.name: site for site in Site.objects.all()}
    except TimeoutError as error:
        first = str(error).splitlines()[0]
        sys.exit(f"Balsam's server {api.client.api_root} cannot be asked; is it up, and `balsam login` done? {first}")
    name = asked.pop("site")
    if name not in sites:
        sys.exit(f"Balsam knows no site {name!r} of yours; it knows {', '.join(sorted(sites)) or 'none'} (--site)")
    answer = {"register": register, "report": report}[asked.pop("ask")](sites[name], **asked)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
