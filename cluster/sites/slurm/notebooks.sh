#!/bin/bash -l
#SBATCH --account=PROJECT
#SBATCH --partition=PARTITION
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --time=1:00:00
#SBATCH --output=%x-%j.txt
# Run notebooks with MPI engines on all nodes of a Slurm job:  sbatch cluster/sites/slurm/notebooks.sh --only 06
# The manual and what to replace are explained in train.sh.
set -euo pipefail
[[ "${SLURM_JOB_ACCOUNT:-}" != PROJEC[T] ]] ||
    { echo "No project: replace PROJECT in the line #SBATCH --account" >&2; exit 2; }
ulimit -c 0
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK

# papermill, the kernels and the controller run on the first node. cluster/launcher.py starts an engine for each task
# on all nodes, with srun or mpiexec as in train.sh; it takes the nodes and tasks from Slurm.
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
echo "Job $SLURM_JOB_ID on $(hostname), modules: ${LOADEDMODULES:-none}"
set -x  # prints the launch line
python -m cluster.run_notebooks --profile full --output "build/$SLURM_JOB_ID" "$@"
