"""The MPI engines of a notebook: started, mended and stopped by one call."""

from cluster.engines.controller import EngineError
from cluster.engines.lifecycle import PROFILE, missing, skip_rest_if_missing, start, stop

__all__ = ["PROFILE", "EngineError", "missing", "skip_rest_if_missing", "start", "stop"]
