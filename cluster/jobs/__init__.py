"""Jobs: what is submitted to a scheduler, and what became of it."""
