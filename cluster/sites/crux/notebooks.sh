#!/bin/bash -l
#PBS -A PROJECT
#PBS -q debug
#PBS -l select=2:system=crux
#PBS -l place=scatter
#PBS -l walltime=1:00:00
#PBS -l filesystems=home:eagle
#PBS -j oe
# Run notebook 06 with MPI engines on all nodes of a job on Crux:  qsub cluster/sites/crux/notebooks.sh
# The manual and the queue are named in train.sh. This script was not run there.
set -euo pipefail
[[ "${PBS_ACCOUNT:-}" != PROJEC[T] ]] || { echo "No project: replace PROJECT in the line #PBS -A" >&2; exit 2; }
ulimit -c 0
cd "$PBS_O_WORKDIR"
module load PrgEnv-gnu cray-mpich cray-python
export BNN_RANKS_PER_NODE=8 OMP_NUM_THREADS=16

# papermill, the kernels and the controller run on the first node. cluster/launcher.py starts the engines on all
# nodes; it takes the nodes from PBS_NODEFILE and the layout from the two variables above.
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
echo "Job $PBS_JOBID on $(hostname), modules: ${LOADEDMODULES:-none}"
set -x  # prints the launch line
python -m cluster.run_notebooks --profile full --only 06 --output "build/$PBS_JOBID"
