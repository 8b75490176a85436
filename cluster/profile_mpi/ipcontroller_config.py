"""Set where the controller listens, who may connect, and when it gives up an engine that does not answer."""

import secrets

from cluster import launcher

c = get_config()  # noqa: F821

c.IPController.ip = launcher.address()
c.IPController.location = launcher.address()
# Connections are encrypted, and each run signs messages with a key of its own. With CurveZMQ alone, everybody who has
# the public key could connect.
c.IPController.enable_curve = True
c.Session.key = secrets.token_hex(32).encode()
# One process serves all queues, so they all work or all fail. With eight processes, the death of one goes unnoticed.
c.IPController.use_threads = True
# The notebook already has every result, so the controller does not store it too.
c.IPController.db_class = "nodb"
# Milliseconds. An engine counts as registered at its second heartbeat, and as dead after 30 missed ones.
c.HeartMonitor.period = 500
c.HeartMonitor.max_heartmonitor_misses = 30
# The log is shown when something fails, so it holds only what can explain that.
c.IPController.log_level = "ERROR"
