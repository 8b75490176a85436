"""Note the signals that ask for a stop from the first moment on, and then start the command.

The imports of the command take seconds, in which SIGUSR1 would end the process without a message.
"""

import sys

from helpers.distributed import watchdog

if __name__ == "__main__":
    watchdog.listen()
    from helpers.train.command import main

    sys.exit(main())
