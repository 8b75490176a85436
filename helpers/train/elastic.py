"""Elastic training: ranks are lost and added, and those that are there continue from the last checkpoint.

    horovodrun --gloo -np 2 --min-np 1 --max-np 4 --network-interface lo --host-discovery-script ./hosts.sh \\
        python -m helpers.train --elastic --flagfile=cluster/flags/mnist_bnn.cfg

hosts.sh prints a line `host:slots` for each host; horovodrun calls it every second. horovodrun does not use a host
again on which a rank died. A rank that gets SIGTERM or SIGUSR1 ends at once, without a checkpoint, and the others go
on. An epoch that had begun is continued: what is left of its order is dealt out to the ranks that there are now. The
learning rate is scaled by their number, as at any start.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from helpers.distributed import PeerLost
from helpers.distributed.horovod_world import HorovodInternalError
from helpers.distributed.start import DEFAULTS
from helpers.runs import Checkpoints, Run

import horovod.tensorflow as hvd
import tensorflow as tf
import tf_keras as keras
from absl.flags import FlagValues


@dataclass(frozen=True)
class ElasticRun(Run):
    """A run that takes up new ranks at its checkpoints, with `take_up`, which raises an exception if there are any."""

    take_up: Callable[[], None] = field(kw_only=True)

    def open(self, checkpoint: tf.train.Checkpoint, settings: dict) -> Checkpoints:
        """Open the folder as `Run.open` does."""
        checkpoints = super().open(checkpoint, settings)
        checkpoints.between_steps = self.take_up  # type: ignore[method-assign]
        return checkpoints


def run(train: Callable, flags: FlagValues) -> None:
    """Call `train(flags, stack, run_class)` on every rank, and again whenever ranks have been lost or added.

    The checkpoints are the state that the ranks have in common, so the steps since the last checkpoint are repeated.
    Ranks are added at checkpoints.

    Raises:
      ValueError: horovodrun has not started this process as part of an elastic job, or --overwrite is on.
    """
    if os.environ.get("HOROVOD_ELASTIC") != "1":
        raise ValueError(
            "--elastic needs ranks that `horovodrun --gloo -np ... --min-np 1 --host-discovery-script ...` starts"
        )
    if flags.overwrite:
        raise ValueError("--elastic goes on from checkpoints, and --overwrite removes them: choose one")
    for name, value in DEFAULTS.items():  # before Horovod starts
        os.environ.setdefault(name, value)
    hvd.init()
    state = hvd.elastic.ObjectState(hvd.broadcast_object, hvd.rank)

    def elastic_run(**circumstances):
        return ElasticRun(**circumstances, take_up=state.check_host_updates)

    @hvd.elastic.run
    def attempt(state):
        # The rank that this process has now, for code that reads the environment.
        os.environ["HOROVOD_RANK"] = str(hvd.rank())
        # Ranks know tensors by name, so layers are numbered as in a process that has built none.
        keras.backend.clear_session()
        if hvd.rank() == 0:
            print(f"elastic: {hvd.size()} rank{'s' * (hvd.size() > 1)}", flush=True)
        try:
            with contextlib.ExitStack() as stack:
                train(flags, stack, elastic_run)
        except PeerLost as error:
            raise HorovodInternalError(error) from error

    def again():
        flags.resume = True

    state.register_reset_callbacks([again])
    attempt(state)
