#!/bin/bash -l
#SBATCH --account=PROJECT
#SBATCH --constraint=gpu
#SBATCH --qos=debug
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --time=0:30:00
#SBATCH --output=%x-%j.txt
# Run notebook 06 with MPI engines on all GPUs of a job on Perlmutter:  sbatch cluster/sites/perlmutter/notebooks.sh
# The manual, the queue and the binding are explained in train.sh. This script was not run there.
set -euo pipefail
[[ "${SLURM_JOB_ACCOUNT:-}" != PROJEC[T] ]] ||
    { echo "No project: replace PROJECT in the line #SBATCH --account" >&2; exit 2; }
ulimit -c 0
module load PrgEnv-gnu cray-mpich cudatoolkit python
export MPICH_GPU_SUPPORT_ENABLED=0
export OMP_NUM_THREADS=16 BNN_CPU_BIND=map_ldom:3,2,1,0
export BNN_LAUNCHER_OPTIONS="--cpus-per-task=32 --gpu-bind=none"

# papermill, the kernels and the controller run on the first node. cluster/launcher.py starts the engines on all
# nodes; it takes the nodes and tasks from Slurm and the rest from the variables above.
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
echo "Job $SLURM_JOB_ID on $(hostname), modules: ${LOADEDMODULES:-none}"
set -x  # prints the launch line
python -m cluster.run_notebooks --profile full --only 06 --output "build/$SLURM_JOB_ID" "$@"
