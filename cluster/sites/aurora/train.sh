#!/bin/bash -l
#PBS -A PROJECT
#PBS -q debug
#PBS -l select=2
#PBS -l place=scatter
#PBS -l walltime=1:00:00
#PBS -l filesystems=home:flare
#PBS -k doe
#PBS -j oe
# Train on the CPUs of Aurora (ALCF):  qsub cluster/sites/aurora/train.sh
# Submit from a folder on /flare, not from your home folder. cluster/README.md, "Building on a Cray", says how to build
# the course there. A node has two CPUs of 52 cores, and the system reserves the first core of each. The course does not
# use the GPUs, because they need Intel's TensorFlow. The queue debug gives 1 or 2 nodes for at most 1 hour, and takes one
# job per user.
# Manual: docs.alcf.anl.gov (argonne-lcf/user-guides of 19 August 2026), aurora/running-jobs-aurora.md: queues,
# GPU-aware MPI, and example 4 of "Binding MPI ranks and threads to cores". This script was not run there.
set -euo pipefail
# [T] keeps this line right where you replace the word everywhere in this file.
[[ "${PBS_ACCOUNT:-}" != PROJEC[T] ]] || { echo "No project: replace PROJECT in the line #PBS -A" >&2; exit 2; }
ulimit -c 0
cd "$PBS_O_WORKDIR"
module load mpich
export MPIR_CVAR_ENABLE_GPU=0  # all-reduces take place in host memory
# From 17 nodes on, aurora/data-science/frameworks/tensorflow.md also sets FI_CXI_DEFAULT_CQ_SIZE=131072,
# FI_CXI_OFLOW_BUF_SIZE=8388608 and FI_CXI_CQ_FILL_PERCENT=20.

PPN=12     # MPI ranks on each node, 6 per CPU
THREADS=8  # threads of each rank
# Cores 0 and 52 (hardware threads 104 and 156 too) are reserved. No rank spans both CPUs, as it would with depth.
BIND=list:1-8:9-16:17-24:25-32:33-40:41-48:53-60:61-68:69-76:77-84:85-92:93-100

NODES=$(sort -u "$PBS_NODEFILE" | wc -l)
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
echo "Job $PBS_JOBID on $(hostname), modules: ${LOADEDMODULES:-none}"
set -x  # prints the launch line
# 24 ranks of 32 images are a global batch of 768. 2 minutes before the limit, timeout asks the training to save and
# stop.
timeout --preserve-status --signal=USR1 3480 \
    mpiexec -n $((NODES * PPN)) -ppn "$PPN" --cpu-bind "$BIND" --env OMP_NUM_THREADS="$THREADS" \
    python -m helpers.train --flagfile=cluster/flags/mnist_bnn.cfg --batch_size=32 --scale_learning_rate=sqrt \
    --num_intra="$THREADS" --resume
