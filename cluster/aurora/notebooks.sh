#!/bin/bash -l
# Notebooks with MPI engines on all of the job's nodes on Aurora (ALCF: 104 cores a node; PALS under PBS).
# From the course's folder:  qsub cluster/aurora/notebooks.sh
#PBS -l select=2
#PBS -l place=scatter
#PBS -l walltime=1:00:00
#PBS -l filesystems=home:flare
#PBS -q debug
#PBS -A PROJECT
#PBS -j oe
set -e
cd "$PBS_O_WORKDIR"
module load mpich
export BNN_RANKS_PER_NODE=12 OMP_NUM_THREADS=8

# papermill, kernels and controller run on the first node; the engines come up on all of them under mpiexec, with the
# options of train.sh, which cluster/launcher.py finds from PBS_NODEFILE and the two variables above.
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
python -m cluster.run_notebooks --profile full --only 06 --output "build/$PBS_JOBID"
