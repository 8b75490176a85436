#!/bin/bash -l
#COBALT -n 8
#COBALT -t 60
#COBALT -q default
#COBALT -A PROJECT
#COBALT --attrs mcdram=cache:numa=quad
# Notebooks with MPI engines on all of the job's nodes on Theta, from the course's folder:
#   qsub cluster/theta/notebooks.sh
# Theta was retired at the end of 2023: see cluster/theta/train.sh. Today: cluster/crux/notebooks.sh.
set -e

export BNN_RANKS_PER_NODE=4 OMP_NUM_THREADS=32
export BNN_LAUNCHER_OPTIONS="-j 2"

# papermill, the notebooks' kernels and the engines' controller stay on the service (MOM) node where this script runs.
# The engines come up on the compute nodes under aprun, with -n, -N, -cc depth, -d and -b as cluster/launcher.py finds
# them from COBALT_PARTSIZE and the two variables above, and connect to the controller over the machine's network.
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
python -m cluster.run_notebooks --profile full --only 06 --output "build/$COBALT_JOBID"
