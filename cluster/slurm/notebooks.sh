#!/bin/bash -l
# Notebooks with MPI engines on all of the job's nodes under Slurm, from the course's folder:
#   sbatch cluster/slurm/notebooks.sh --only 06
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=1
#SBATCH --time=1:00:00
#SBATCH --output=slurm-%j.txt
set -e
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

# papermill, kernels and controller run on the first node; the engines, a task each, on all of them, under srun or
# mpiexec as in train.sh: cluster/launcher.py finds nodes and tasks from what Slurm says of the job.
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
python -m cluster.run_notebooks --profile full --output "build/$SLURM_JOB_ID" "$@"
