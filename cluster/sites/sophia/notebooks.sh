#!/bin/bash -l
#PBS -A PROJECT
#PBS -q by-gpu
#PBS -l select=4
#PBS -l walltime=1:00:00
#PBS -l filesystems=home:eagle
#PBS -j oe
# Run notebook 06 with MPI engines on 4 GPUs of one node of Sophia:  qsub cluster/sites/sophia/notebooks.sh
# The manual, the queue and the binding are explained in train.sh. This script was not run there.
set -euo pipefail
[[ "${PBS_ACCOUNT:-}" != PROJEC[T] ]] || { echo "No project: replace PROJECT in the line #PBS -A" >&2; exit 2; }
ulimit -c 0
cd "$PBS_O_WORKDIR"
export BNN_RANKS_PER_NODE=4 OMP_NUM_THREADS=16 BNN_CPU_BIND=none

# cluster/launcher.py starts the engines with the course's Open MPI; it takes the layout from the variables above.
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
echo "Job $PBS_JOBID on $(hostname), modules: ${LOADEDMODULES:-none}"
set -x  # prints the launch line
python -m cluster.run_notebooks --profile full --only 06 --output "build/$PBS_JOBID"
