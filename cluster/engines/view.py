"""How a notebook speaks to its engines: the view, and the %%px cells. Both say so when engines are gone."""

import contextlib

from cluster.engines.controller import EngineError

import ipyparallel
from ipyparallel.client.magics import ParallelMagics
from IPython import get_ipython


@contextlib.contextmanager
def _told(running):
    """Say what became of the engines, once, in the place of what each lost message has to say of it."""
    if running.gone.is_set():
        raise EngineError(running.lost)
    try:
        yield
    except ipyparallel.error.IPythonError as error:
        names = {entry[0] for entry in getattr(error, "elist", [])} | {getattr(error, "ename", "")}
        # The first notices of an engine's death come before the watch knows the reason.
        if running.gone.wait(10 if "EngineError" in names else 0):
            raise EngineError(running.lost) from None
        raise


class Ranks(ipyparallel.DirectView):
    """A DirectView of all ranks in order of rank, whose calls block.

    Raises:
      EngineError: from any call, if the engines are gone.
    """

    def __init__(self, running):
        view = running.client.direct_view(list(range(running.n)))
        super().__init__(client=running.client, socket=view._socket, targets=view.targets)
        self.block = True
        self._running = running

    def __enter__(self):
        return self

    def __exit__(self, *error):
        from cluster import engines

        engines.stop()

    def _really_apply(self, *args, **kwargs):
        with _told(self._running):
            return super()._really_apply(*args, **kwargs)

    def execute(self, *args, **kwargs):
        with _told(self._running):
            return super().execute(*args, **kwargs)


class _Magics(ParallelMagics):
    """%px and %%px without bars; outputs in order of rank at the end, or with `--stream` as they come."""

    stream_output = False
    progress_after_seconds = -1

    def parallel_execute(self, *args, **kwargs):
        try:
            with _told(self.view._running):
                return super().parallel_execute(*args, **kwargs)
        except TimeoutError:
            # An interrupted cell asks for outputs that a rank within a C++ call does not end to give.
            raise EngineError(
                "The ranks did not heed the interrupt: some wait within MPI for others that never come. "
                "Run `ranks = engines.start()`: it replaces ranks that do not answer."
            ) from None


def activate(running):
    """Make %px and %%px of this notebook those of `running`; outside of IPython, nothing."""
    shell = get_ipython()
    if shell is not None:
        shell.register_magics(_Magics(shell, running.ranks))
