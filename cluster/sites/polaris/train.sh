#!/bin/bash -l
#PBS -A PROJECT
#PBS -q debug
#PBS -l select=2:system=polaris
#PBS -l place=scatter
#PBS -l walltime=1:00:00
#PBS -l filesystems=home:eagle
#PBS -j oe
# Train on the GPUs of Polaris (ALCF), one rank per GPU:  qsub cluster/sites/polaris/train.sh
# Set up there with GPU=1 first: cluster/README.md, "Building on a Cray". A node has 32 cores and 4 A100. The queue debug
# gives 1 or 2 nodes for at most 1 hour.
# Manual: docs.alcf.anl.gov (argonne-lcf/user-guides of 19 August 2026), polaris/running-jobs/index.md (queues,
# mpiexec), polaris/running-jobs/using-gpus.md (cores nearest to each GPU),
# polaris/applications-and-libraries/libraries/nccl.md.
# This script was not run there.
set -euo pipefail
# [T] keeps this line right where you replace the word everywhere in this file.
[[ "${PBS_ACCOUNT:-}" != PROJEC[T] ]] || { echo "No project: replace PROJECT in the line #PBS -A" >&2; exit 2; }
ulimit -c 0
cd "$PBS_O_WORKDIR"
module use /soft/modulefiles  # system-updates.md: no longer on the default path
module load PrgEnv-gnu cray-mpich cray-python cudatoolkit-standalone
export MPICH_GPU_SUPPORT_ENABLED=0  # NCCL moves the gradients between GPUs; MPI only coordinates, in host memory
# NCCL over Slingshot, as nccl.md recommends. If NCCL hangs, remove the line that sets the four NCCL_ variables.
export NCCL_NET_GDR_LEVEL=PHB NCCL_CROSS_NIC=1 NCCL_COLLNET_ENABLE=1 NCCL_NET="AWS Libfabric"
export LD_LIBRARY_PATH=/soft/libraries/hwloc/lib:/soft/libraries/aws-ofi-nccl/v1.9.1-aws/lib:${LD_LIBRARY_PATH:-}
export FI_CXI_DISABLE_HOST_REGISTER=1 FI_MR_CACHE_MONITOR=userfaultfd FI_CXI_DEFAULT_CQ_SIZE=131072

PPN=4      # MPI ranks on each node, one per GPU
THREADS=8  # threads of each rank
BIND=list:24-31:16-23:8-15:0-7  # local rank 0 takes GPU 0, which is nearest to cores 24-31; GPU 3 is nearest to 0-7

NODES=$(sort -u "$PBS_NODEFILE" | wc -l)
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
echo "Job $PBS_JOBID on $(hostname), modules: ${LOADEDMODULES:-none}"
set -x  # prints the launch line
# 2 minutes before the limit, timeout asks the training to save and stop.
timeout --preserve-status --signal=USR1 3480 \
    mpiexec -n $((NODES * PPN)) -ppn "$PPN" --cpu-bind "$BIND" --env OMP_NUM_THREADS="$THREADS" \
    python -m helpers.train --flagfile=cluster/flags/cifar10_bnn.cfg --scale_learning_rate=sqrt \
    --num_intra="$THREADS" --resume
