"""Note the signals that ask for a stop from the first moment on, and then start the command.

The imports below take seconds, in which SIGUSR1 would end the process without a word.
"""

import os
import signal
import sys

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # by which launchers and schedulers ask the training command to stop


def _end_before_start(number, frame):
    told = f"told to stop by {signal.Signals(number).name} before it began"
    os.write(_stderr, f"helpers.train: {told}. Start the same command again.\n".encode())
    os._exit(128 + number)


if __name__ == "__main__":
    _stderr = os.dup(2)  # which the quiet import of TensorFlow does not redirect
    for _number in SIGNALS:
        signal.signal(_number, _end_before_start)
    from helpers.distributed import watchdog
    from helpers.train.command import main

    watchdog.listen()
    sys.exit(main())
