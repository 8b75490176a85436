#!/bin/bash -l
#PBS -A PROJECT
#PBS -q by-gpu
#PBS -l select=4
#PBS -l walltime=1:00:00
#PBS -l filesystems=home:eagle
#PBS -j oe
# Train on 4 GPUs of one node of Sophia (ALCF), one rank per GPU:  qsub cluster/sites/sophia/train.sh
# Set up on a compute node with the Open MPI of the course first: make setup GPU=1. A node has 128 cores and 8 A100. In
# queue by-gpu a chunk is a GPU: select 1, 2, 4 or 8, all on one node, for at most 24 hours.
# Manual: docs.alcf.anl.gov (argonne-lcf/user-guides of 19 August 2026),
# sophia/queueing-and-running-jobs/running-jobs.md (queues) and sophia/index.md (nodes). Open MPI's mpirun(1), version
# 4.1, "Signal Propagation": mpiexec passes SIGUSR1 on to the ranks. This script was not run there.
set -euo pipefail
# [T] keeps this line right where you replace the word everywhere in this file.
[[ "${PBS_ACCOUNT:-}" != PROJEC[T] ]] || { echo "No project: replace PROJECT in the line #PBS -A" >&2; exit 2; }
ulimit -c 0
cd "$PBS_O_WORKDIR"

PPN=4       # MPI ranks, one per GPU
THREADS=16  # threads of each rank: 128 cores for 8 GPUs

# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
export OMP_NUM_THREADS=$THREADS
echo "Job $PBS_JOBID on $(hostname), modules: ${LOADEDMODULES:-none}"
set -x  # prints the launch line
# PBS gives the job the cores beside its GPUs, so mpiexec need not bind. 2 minutes before the limit, timeout asks the
# training to save and stop.
timeout --preserve-status --signal=USR1 3480 \
    mpiexec -n "$PPN" --bind-to none \
    python -m helpers.train --flagfile=cluster/flags/cifar10_bnn.cfg --scale_learning_rate=sqrt \
    --num_intra="$THREADS" --resume
