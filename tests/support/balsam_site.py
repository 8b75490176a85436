"""What Balsam's own Python does for tests/support/balsam_server.py: the database's tables, the user, the site. No test.

BALSAM_PYTHON tests/support/balsam_site.py tables | site URL FOLDER NAME
"""

import sys
from pathlib import Path

from balsam.platform.compute_node import DefaultNode

NODES = 2
# Balsam's defaults for a Linux machine start ranks with MPICH, and wait long between looks.
SHORTER = {
    "idle_ttl_sec: 60": "idle_ttl_sec: 5",
    "sync_period: 10": "sync_period: 1",
    "service_period: 5": "service_period: 60",
}


class TwoNodes(DefaultNode):
    """The site's nodes: this machine, twice, by two addresses of its loopback."""

    @classmethod
    def get_job_nodelist(cls):
        return [cls(f"127.0.0.{2 + number}", f"127.0.0.{2 + number}") for number in range(NODES)]


def tables():
    """Make the database's tables. The wheel has none of the migrations by which a real server would."""
    from balsam.server.models import tables  # noqa: F401  # defines them
    from balsam.server.models.base import Base, create_tables

    # An index for speed, which SQLAlchemy cannot write from this description.
    indexes = Base.metadata.tables["jobs"].indexes
    indexes -= {index for index in indexes if index.name == "ix_jobs_tags"}
    create_tables()


def site(url, folder, name):
    """A user of the server at `url`, logged in, and a site of that name in `folder`."""
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
    path = next(path for path in known if path.name == "osx")  # a Linux machine without a scheduler too
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
