"""The all-reduce of a training step on simulated networks, and what shows how far the simulation can be trusted."""
