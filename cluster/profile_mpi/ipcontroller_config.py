"""Where the controller listens, who gets in, and how soon a silent engine is given up."""

import secrets

from cluster import launcher

c = get_config()  # noqa: F821

c.IPController.ip = launcher.address()
c.IPController.location = launcher.address()
# Encrypted, and signed with a key of this run's own: CurveZMQ alone would let in who has the public key.
c.IPController.enable_curve = True
c.Session.key = secrets.token_hex(32).encode()
# One process for all queues, so that they work or are gone: the death of one in eight would go unnoticed.
c.IPController.use_threads = True
# The hub would keep every result; the notebook has them already.
c.IPController.db_class = "nodb"
# Milliseconds. An engine counts as registered at its second beat, and as dead when 30 are missed.
c.HeartMonitor.period = 500
c.HeartMonitor.max_heartmonitor_misses = 30
# The log is shown when something fails: only what explains it, which are errors.
c.IPController.log_level = "ERROR"
