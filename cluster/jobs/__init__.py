"""Submit jobs to a scheduler, run them on their first node, and tell what became of them."""
