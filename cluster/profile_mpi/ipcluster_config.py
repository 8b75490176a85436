"""What starts controller and engines: see cluster/launcher.py for mpiexec, aprun and srun."""

import os

c = get_config()  # noqa: F821

c.Cluster.controller_launcher_class = "cluster.engines.launchers.ControllerLauncher"
c.Cluster.engine_launcher_class = "cluster.engines.launchers.RankLauncher"
c.Cluster.n = int(os.environ.get("BNN_RANKS", 2))
# Engines wait for the controller's connection info as it is; a pause on top only costs time.
c.Cluster.delay = 0
