#!/bin/bash -l
# Notebooks with MPI engines on all of the job's nodes on Polaris (ALCF: 32 cores a node; Cray's PALS under PBS).
# From the course's folder:  qsub cluster/polaris/notebooks.sh
#PBS -l select=2:system=polaris
#PBS -l place=scatter
#PBS -l walltime=1:00:00
#PBS -l filesystems=home:eagle
#PBS -q debug
#PBS -A PROJECT
#PBS -j oe
set -e
cd "$PBS_O_WORKDIR"
module load PrgEnv-gnu cray-mpich cray-python
export MPICH_GPU_SUPPORT_ENABLED=0  # the lock's TensorFlow computes on CPUs, and all-reduces what lies in their memory
export BNN_RANKS_PER_NODE=8 OMP_NUM_THREADS=4

# papermill, kernels and controller run on the first node; the engines come up on all of them under mpiexec, with the
# options of train.sh, which cluster/launcher.py finds from PBS_NODEFILE and the two variables above.
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
python -m cluster.run_notebooks --profile full --only 06 --output "build/$PBS_JOBID"
