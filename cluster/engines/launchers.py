"""The classes with which ipyparallel starts controller and engines, named in cluster/profile_mpi/."""

from cluster import launcher, supervise

from ipyparallel.cluster.launcher import LocalControllerLauncher, MPIEngineSetLauncher


class ControllerLauncher(LocalControllerLauncher):
    """ipyparallel's controller, on the leash of the process that started it."""

    def find_args(self):
        return supervise.command(self.profile_dir) + super().find_args()

    def get_env(self):
        return {**launcher.environment(), **super().get_env()}


class RankLauncher(MPIEngineSetLauncher):
    """One engine a rank, started by this machine's launcher, on the same supervise."""

    def find_args(self):
        start = launcher.command(self.n, *self.program, *self.program_args, engines=True)
        return supervise.command(self.profile_dir) + start

    def get_env(self):
        return {**launcher.environment(), **super().get_env()}
