"""Create the database's tables, the user and the site for tests/support/balsam_server.py, with Balsam's own Python.

BALSAM_PYTHON tests/support/balsam_site.py tables
BALSAM_PYTHON tests/support/balsam_site.py site URL FOLDER NAME
"""

import sys
from pathlib import Path

from balsam.platform.compute_node import DefaultNode

NODES = 2
# Balsam's defaults for a Linux machine wait long between two checks.
SHORTER = {
    "idle_ttl_sec: 60": "idle_ttl_sec: 5",
    "sync_period: 10": "sync_period: 1",
    "service_period: 5": "service_period: 60",
}


class TwoNodes(DefaultNode):
    """The site's nodes, which are two addresses of this machine's loopback."""

    @classmethod
    def get_job_nodelist(cls):
        return [cls(f"127.0.0.{2 + number}", f"127.0.0.{2 + number}") for number in range(NODES)]


def tables():
    """Create the database's tables. A real server uses migrations, which Balsam's wheel does not contain."""
    from balsam.server.models import tables  # noqa: F401  # defines them
    from balsam.server.models.base import Base, create_tables

    # This index only serves speed, and SQLAlchemy cannot create it from this description.
    indexes = Base.metadata.tables["jobs"].indexes
    indexes -= {index for index in indexes if index.name == "ix_jobs_tags"}
    create_tables()


def site(url, folder, name):
    """Create a user of the server at `url`, log in, and create a site called `name` in `folder`."""
    from balsam.client import BasicAuthRequestsClient, urls
    from balsam.config import ClientSettings, site_builder

    user = {"username": "course", "password": "course"}
    client = BasicAuthRequestsClient(url, **user)
    client.post(urls.PASSWORD_REGISTER, **user, authenticating=True)
    client.refresh_auth()
    ClientSettings(
        api_root=url, client_class=type(client), token=client.token, token_expiry=client.token_expiry
    ).save_to_file()
    known = site_builder.load_default_configs()
    path = next(path for path in known if path.name == "osx")  # also serves a Linux machine without a scheduler
    defaults = known[path]
    defaults.compute_node = "balsam_site.TwoNodes"
    defaults.mpi_app_launcher = "balsam.platform.app_run.OpenMPIRun"
    defaults.allowed_queues["local"]["max_nodes"] = NODES
    site_builder.new_site_setup(Path(folder), name, path, defaults, client=client)
    settings = Path(folder) / "settings.yml"
    text = settings.read_text()
    for slow, fast in SHORTER.items():
        assert slow in text, f"Balsam's settings have no {slow!r}"
        text = text.replace(slow, fast)
    settings.write_text(text)


if __name__ == "__main__":
    {"tables": tables, "site": site}[sys.argv[1]](*sys.argv[2:])
