"""Run notebooks in a batch with papermill."""
