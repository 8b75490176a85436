"""Send calls and %%px cells of a notebook to its engines, and say clearly when the engines no longer run."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from cluster.engines.controller import EngineError, EngineSet

import ipyparallel
from ipyparallel.client.magics import ParallelMagics
from IPython import get_ipython

_REASON_SECONDS = 10.0  # that the thread which watches the processes has to find out why an engine died


@contextlib.contextmanager
def _announced(engine_set: EngineSet) -> Iterator[None]:
    """Raise one EngineError with the reason, in place of ipyparallel's error for each lost message."""
    if engine_set.gone.is_set():
        raise EngineError(engine_set.failure)
    try:
        yield
    except ipyparallel.error.IPythonError as error:
        names = {entry[0] for entry in getattr(error, "elist", [])} | {getattr(error, "ename", "")}
        # ipyparallel reports an engine's death before the watching thread knows the reason.
        if engine_set.gone.wait(_REASON_SECONDS if "EngineError" in names else 0):
            raise EngineError(engine_set.failure) from None
        raise


class EngineView(ipyparallel.DirectView):
    """A DirectView of all ranks in order of rank, whose calls block until all ranks have answered.

    As a context manager it stops the engines at the end of the block.

    Args:
      engine_set: engines that have started.
      stop: function that stops these engines.

    Raises:
      EngineError: from any call, if the engines no longer run.
    """

    def __init__(self, engine_set: EngineSet, stop: Callable[[], None]) -> None:
        view = engine_set.client.direct_view(list(range(engine_set.n)))
        super().__init__(client=engine_set.client, socket=view._socket, targets=view.targets)
        self.block = True
        self.engine_set = engine_set
        self._stop = stop

    def __enter__(self) -> "EngineView":
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def _really_apply(self, *args: Any, **kwargs: Any) -> Any:
        with _announced(self.engine_set):
            return super()._really_apply(*args, **kwargs)

    def execute(self, *args: Any, **kwargs: Any) -> ipyparallel.AsyncResult:
        """Run code on all ranks, with the arguments of `DirectView.execute`."""
        with _announced(self.engine_set):
            return super().execute(*args, **kwargs)


class _Magics(ParallelMagics):
    """%px and %%px without progress bars. They show outputs in order of rank at the end, or at once with --stream."""

    stream_output = False
    progress_after_seconds = -1

    def parallel_execute(self, *args: Any, **kwargs: Any) -> Any:
        try:
            with _announced(self.view.engine_set):
                return super().parallel_execute(*args, **kwargs)
        except TimeoutError:
            # After an interrupt, IPython waits for the outputs of ranks that are still inside a call of C++ code.
            raise EngineError(
                "The interrupt did not end the cell, because some ranks wait within MPI for ranks that do not answer. "
                "Run `ranks = engines.start()`, which replaces ranks that do not respond."
            ) from None


def activate(view: EngineView) -> None:
    """Let %px and %%px of this notebook run on `view`. Outside of IPython this does nothing."""
    shell = get_ipython()
    if shell is not None:
        shell.register_magics(_Magics(shell, view))
