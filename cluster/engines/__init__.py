"""Start, check and stop the MPI engines of a notebook.

    from cluster import engines
    ranks = engines.start(2)     # call it again after a failure: engines that respond are returned unchanged
    ranks["x"]                   # the value of x on each rank, in order of rank; %%px cells run on all ranks
    engines.stop()

A notebook has one set of engines. No process or file of it outlives the notebook, even if the notebook is killed.
"""

from cluster.engines.controller import EngineError
from cluster.engines.lifecycle import PROFILE, missing, skip_rest_if_missing, start, stop

__all__ = ["PROFILE", "EngineError", "missing", "skip_rest_if_missing", "start", "stop"]
