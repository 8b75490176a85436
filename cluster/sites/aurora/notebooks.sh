#!/bin/bash -l
#PBS -A PROJECT
#PBS -q debug
#PBS -l select=2
#PBS -l place=scatter
#PBS -l walltime=1:00:00
#PBS -l filesystems=home:flare
#PBS -k doe
#PBS -j oe
# Run notebook 06 with MPI engines on the CPUs of a job on Aurora:  qsub cluster/sites/aurora/notebooks.sh
# The manual, the queue and the binding are explained in train.sh. This script was not run there.
set -euo pipefail
[[ "${PBS_ACCOUNT:-}" != PROJEC[T] ]] || { echo "No project: replace PROJECT in the line #PBS -A" >&2; exit 2; }
ulimit -c 0
cd "$PBS_O_WORKDIR"
module load mpich
export MPIR_CVAR_ENABLE_GPU=0
export BNN_RANKS_PER_NODE=12 OMP_NUM_THREADS=8
export BNN_CPU_BIND=list:1-8:9-16:17-24:25-32:33-40:41-48:53-60:61-68:69-76:77-84:85-92:93-100

# papermill, the kernels and the controller run on the first node. cluster/launcher.py starts the engines on all
# nodes; it takes the nodes from PBS_NODEFILE and the layout from the variables above.
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
echo "Job $PBS_JOBID on $(hostname), modules: ${LOADEDMODULES:-none}"
set -x  # prints the launch line
python -m cluster.run_notebooks --profile full --only 06 --output "build/$PBS_JOBID"
