"""How the course runs on more than one process: MPI engines for notebooks, and batch runs of notebooks."""
