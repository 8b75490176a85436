"""Define the classes with which ipyparallel starts the controller and the engines. cluster/profile_mpi/ names them."""

from cluster import launcher, supervise

from ipyparallel.cluster.launcher import LocalControllerLauncher, MPIEngineSetLauncher


class ControllerLauncher(LocalControllerLauncher):
    """ipyparallel's controller, which ends with the process that started it."""

    def find_args(self) -> list[str]:
        """Return the command line of the controller."""
        return supervise.command(self.profile_dir) + super().find_args()

    def get_env(self) -> dict[str, str]:
        """Return the environment variables that the controller has in addition to this process's."""
        return {**launcher.environment(), **super().get_env()}


class RankLauncher(MPIEngineSetLauncher):
    """One engine for each MPI rank, started by this machine's launcher. All end with the process that started them."""

    def find_args(self) -> list[str]:
        """Return the command line that starts all engines."""
        ranks = launcher.command(self.n, *self.program, *self.program_args, engines=True)
        return supervise.command(self.profile_dir) + ranks

    def get_env(self) -> dict[str, str]:
        """Return the environment variables that the engines have in addition to this process's."""
        return {**launcher.environment(), **super().get_env()}
