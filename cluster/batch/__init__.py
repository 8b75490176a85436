"""Batch runs of notebooks with papermill."""
