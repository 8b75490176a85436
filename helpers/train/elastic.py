"""Elastic training: ranks are lost and added, and those that are there go on from the last checkpoint.

    horovodrun --gloo -np 2 --min-np 1 --max-np 4 --network-interface lo --host-discovery-script ./hosts.sh \\
        python -m helpers.train --elastic --flagfile=cluster/flags/mnist_bnn.cfg

hosts.sh prints a line `host:slots` for each host; horovodrun asks it every second. A host on which a rank died is not
used again. A rank that gets SIGTERM or SIGUSR1 ends at once, without a checkpoint, and the others go on. An epoch that
was begun goes on: what is left of its order is dealt out to the ranks that there are now. The learning rate is scaled
by their number as at any start.
"""

import contextlib
import os

from helpers import distributed
from helpers.distributed.watchdog import PeerLost

import horovod.tensorflow as hvd
import tf_keras as keras


def run(train, flags):
    """Call `train(flags, stack, on_checkpoint)` on every rank, and anew whenever ranks have been lost or added.

    The checkpoints are the state that ranks have in common: what was done since the last one is done again. Ranks are
    added at checkpoints.

    Raises:
      ValueError: horovodrun has not started this process as part of an elastic job, or --overwrite is on.
    """
    if os.environ.get("HOROVOD_ELASTIC") != "1":
        raise ValueError(
            "--elastic needs ranks that `horovodrun --gloo -np ... --min-np 1 --host-discovery-script ...` starts"
        )
    if flags.overwrite:
        raise ValueError("--elastic goes on from checkpoints, and --overwrite removes them: choose one")
    # Ranks that are there wait for one that is starting, which takes longer than Gloo's own 30 seconds.
    os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", "600")
    hvd.init()
    state = hvd.elastic.ObjectState(hvd.broadcast_object, hvd.rank)

    @hvd.elastic.run
    def attempt(state):
        # Which rank this is now, for whoever asks the environment.
        os.environ["HOROVOD_RANK"] = str(hvd.rank())
        # Tensors are known by name to all ranks, so layers are numbered as in a process that has built none.
        keras.backend.clear_session()
        if hvd.rank() == 0:
            print(f"elastic: {hvd.size()} rank{'s' * (hvd.size() > 1)}", flush=True)
        try:
            with contextlib.ExitStack() as stack:
                train(flags, stack, state.check_host_updates)
        except PeerLost as error:
            raise distributed.HorovodInternalError(error) from error

    def again():
        flags.resume = True

    state.register_reset_callbacks([again])
    attempt(state)
