"""The JupyterHub of tests/services/test_hub.py, which passes in the environment where things are and who may come."""

import json
import os

from jupyterhub.spawner import SimpleLocalProcessSpawner

given = json.loads(os.environ["HUB_TEST"])


class OwnServer(SimpleLocalProcessSpawner):
    """A server on this machine, in its user's home, and under the user's own number if there is one."""

    home_dir_template = given["homes"] + "/{username}"

    def make_preexec_fn(self, name):
        home, number = f"{given['homes']}/{name}", given["users"][name]

        def become():
            os.chdir(home)
            if number is not None:
                os.setgroups([])
                os.setgid(number)
                os.setuid(number)

        return become


c = get_config()  # noqa: F821

c.JupyterHub.bind_url = given["url"]
c.JupyterHub.hub_port = given["hub_port"]
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{given['proxy_port']}"
c.ConfigurableHTTPProxy.command = [given["proxy"]]
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = given["password"]
c.Authenticator.allowed_users = set(given["users"])
c.JupyterHub.spawner_class = OwnServer
c.Spawner.cmd = [given["server"]]
# Neither news nor newer versions are looked for in the network.
c.Spawner.args = [
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
]
c.Spawner.environment = given["environment"]
c.Spawner.default_url = f"/lab/tree/{given['notebook']}"
c.Spawner.start_timeout = c.Spawner.http_timeout = 120
