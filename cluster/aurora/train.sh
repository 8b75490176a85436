#!/bin/bash -l
# The training command on Aurora (ALCF: 104 cores a node; PALS under PBS), from the course's folder:
#   qsub cluster/aurora/train.sh
# How the course is built there: cluster/README.md.
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

PPN=12      # MPI ranks on each node
THREADS=8   # threads of each rank, and the CPUs that --depth sets it apart from the next

NODES=$(sort -u "$PBS_NODEFILE" | wc -l)
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
mpiexec -n $((NODES * PPN)) -ppn "$PPN" --depth "$THREADS" --cpu-bind depth --env OMP_NUM_THREADS="$THREADS" \
    python -m helpers.train --flagfile=cluster/flags/mnist_bnn.cfg --num_intra="$THREADS" --resume
