#!/bin/bash -l
#SBATCH --account=PROJECT
#SBATCH --constraint=gpu
#SBATCH --qos=debug
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --time=0:30:00
#SBATCH --signal=USR1@120
#SBATCH --output=%x-%j.txt
# Train on the GPUs of Perlmutter (NERSC), one rank per GPU:  sbatch cluster/sites/perlmutter/train.sh
# Arguments after the script's name are passed to the training command. Set up there with GPU=1 first:
# cluster/README.md, "Building on a Cray". A GPU node has 64 cores with 2 hardware threads each, which Slurm counts as
# 128 CPUs, and 4 A100.
# The QOS debug gives at most 8 nodes for 30 minutes and forbids chains of jobs.
# Manual: docs.nersc.gov, "Queues and Charges" (jobs/policy/) and "Running Jobs on Perlmutter"
# (systems/perlmutter/running-jobs/), in copies of July and August 2026; sbatch(1): --signal reaches all ranks of a
# step, here 2 minutes before the limit. This script was not run there.
set -euo pipefail
# [T] keeps this line right where you replace the word everywhere in this file.
[[ "${SLURM_JOB_ACCOUNT:-}" != PROJEC[T] ]] ||
    { echo "No project: replace PROJECT in the line #SBATCH --account" >&2; exit 2; }
ulimit -c 0
module load PrgEnv-gnu cray-mpich cudatoolkit python
export MPICH_GPU_SUPPORT_ENABLED=0  # NCCL moves the gradients between GPUs; MPI only coordinates, in host memory
export OMP_NUM_THREADS=16           # one thread per core

# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
echo "Job $SLURM_JOB_ID on $(hostname), modules: ${LOADEDMODULES:-none}"
set -x  # prints the launch line
# srun does not take --cpus-per-task from sbatch. Local rank 0 takes GPU 0, which is nearest to the last of the 4 NUMA
# domains of 16 cores, hence 3,2,1,0. All ranks see all GPUs of their node, because NCCL copies between them.
srun --cpus-per-task=32 --cpu-bind=map_ldom:3,2,1,0 --gpu-bind=none --kill-on-bad-exit=1 \
    python -m helpers.train --flagfile=cluster/flags/cifar10_bnn.cfg --scale_learning_rate=sqrt \
    --num_intra="$OMP_NUM_THREADS" --resume "$@"
