#!/bin/bash -l
#COBALT -n 8
#COBALT -t 60
#COBALT -q debug-cache-quad
#COBALT -A PROJECT
#COBALT --attrs mcdram=cache:numa=quad
# Run notebook 06 with MPI engines on all nodes of a job on Theta:  qsub cluster/sites/theta/notebooks.sh
# Theta stopped on 31 December 2023 (see train.sh for the manual). Now use cluster/sites/crux/notebooks.sh.
set -euo pipefail
ulimit -c 0
! grep -q '^#COBALT -A PROJEC[T]' "$0" || { echo "No project: replace PROJECT in the line #COBALT -A" >&2; exit 2; }

export BNN_RANKS_PER_NODE=4 OMP_NUM_THREADS=32
export BNN_LAUNCHER_OPTIONS="-j 2"

# papermill, the kernels and the engines' controller stay on the service node that runs this script.
# cluster/launcher.py starts the engines on the compute nodes with aprun; it takes the layout from the variables
# above.
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
echo "Job $COBALT_JOBID on $(hostname), modules: ${LOADEDMODULES:-none}"
set -x  # prints the launch line
python -m cluster.run_notebooks --profile full --only 06 --output "build/$COBALT_JOBID"
