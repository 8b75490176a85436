"""How an engine finds its controller, and when it gives it up."""

c = get_config()  # noqa: F821

# Seconds for the controller's answer, on a machine that is busy starting other ranks.
c.IPEngine.timeout = 30
# An engine whose controller has been silent for 20 beats ends.
c.IPEngine.max_heartbeat_misses = 20
# The engine's number is its rank in any case; the ranks' namespace stays empty.
c.IPEngine.init_mpi = ""
# The log is shown when engines are gone: only what explains it, which are errors.
c.IPEngine.log_level = "ERROR"
