"""The training command: `python -m helpers.train`."""
