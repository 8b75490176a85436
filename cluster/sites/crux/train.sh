#!/bin/bash -l
#PBS -A PROJECT
#PBS -q debug
#PBS -l select=2:system=crux
#PBS -l place=scatter
#PBS -l walltime=1:00:00
#PBS -l filesystems=home:eagle
#PBS -j oe
# Train on Crux (ALCF), one rank per NUMA domain:  qsub cluster/sites/crux/train.sh
# A node has two 64-core CPUs with 8 NUMA domains of 16 cores in all, and no GPU. The queue debug gives 1 to 8 nodes for
# at most 2 hours. cluster/README.md, "Building on a Cray", says how to build the course there.
# Manual: docs.alcf.anl.gov (argonne-lcf/user-guides of 19 August 2026), crux/queueing-and-running-jobs/running-jobs.md
# (queues, mpiexec) and crux/index.md (NUMA domains). This script was not run there.
set -euo pipefail
# [T] keeps this line right where you replace the word everywhere in this file.
[[ "${PBS_ACCOUNT:-}" != PROJEC[T] ]] || { echo "No project: replace PROJECT in the line #PBS -A" >&2; exit 2; }
ulimit -c 0
cd "$PBS_O_WORKDIR"
module load PrgEnv-gnu cray-mpich cray-python

PPN=8       # MPI ranks on each node, one per NUMA domain
THREADS=16  # threads of each rank, and the cores that --depth gives it

NODES=$(sort -u "$PBS_NODEFILE" | wc -l)
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
echo "Job $PBS_JOBID on $(hostname), modules: ${LOADEDMODULES:-none}"
set -x  # prints the launch line
# 16 ranks of 32 images are a global batch of 512. 2 minutes before the limit, timeout asks the training to save and
# stop.
timeout --preserve-status --signal=USR1 3480 \
    mpiexec -n $((NODES * PPN)) -ppn "$PPN" --depth "$THREADS" --cpu-bind depth --env OMP_NUM_THREADS="$THREADS" \
    python -m helpers.train --flagfile=cluster/flags/mnist_bnn.cfg --batch_size=32 --scale_learning_rate=sqrt \
    --num_intra="$THREADS" --resume
