"""Choose the classes that start the controller and the engines, with mpiexec, aprun or srun (cluster/launcher.py)."""

import os

c = get_config()  # noqa: F821

c.Cluster.controller_launcher_class = "cluster.engines.launchers.ControllerLauncher"
c.Cluster.engine_launcher_class = "cluster.engines.launchers.RankLauncher"
c.Cluster.n = int(os.environ.get("BNN_RANKS", 2))
# Engines wait for the controller's connection file themselves, so a delay only costs time.
c.Cluster.delay = 0
