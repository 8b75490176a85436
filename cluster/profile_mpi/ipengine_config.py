"""Set how long an engine waits for its controller, and when it gives up a controller that does not answer."""

c = get_config()  # noqa: F821

# Seconds for the controller's answer on a machine that is busy starting other ranks.
c.IPEngine.timeout = 30
# An engine ends when its controller has missed 20 heartbeats.
c.IPEngine.max_heartbeat_misses = 20
# ipyparallel's option --mpi already numbers the engines by their ranks, so nothing has to run in their namespaces.
c.IPEngine.init_mpi = ""
# The log is shown when the engines fail, so it holds only what can explain that.
c.IPEngine.log_level = "ERROR"
