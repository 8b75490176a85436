"""What several ranks do together. Importing this package imports neither TensorFlow nor Horovod."""

from helpers.distributed.start import init, local_ranks
from helpers.distributed.world import ALONE, PeerLost, RankFailure, World, differing

__all__ = ["ALONE", "PeerLost", "RankFailure", "World", "differing", "init", "local_ranks"]
