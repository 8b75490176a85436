#!/bin/bash -l
#COBALT -n 8
#COBALT -t 60
#COBALT -q default
#COBALT -A PROJECT
#COBALT --attrs mcdram=cache:numa=quad
# The training command on Theta, from the course's folder:  qsub cluster/theta/train.sh
# Cobalt reads directives only at the very top, up to the first other line, and wants the script executable.
#
# Theta (ALCF, Cray XC40: a 64-core KNL with 4 hardware threads a core on each node; Cobalt and aprun) was retired at
# the end of 2023. The published runs were made there, so its script stays to be read beside them, and for whoever has
# another machine with aprun. Today the ALCF's machine for CPUs is Crux: cluster/crux/train.sh.
set -e

PPN=4       # MPI ranks on each node
THREADS=32  # threads of each rank; PPN * THREADS is at most 64 cores times the 2 of -j

# The script runs on a service node; aprun alone reaches the compute nodes. -b: they read the program from the shared
# file system. -cc depth -d: each rank has cores of its own for its threads, in order.
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
aprun -n $((COBALT_PARTSIZE * PPN)) -N "$PPN" -cc depth -d "$THREADS" -j 2 -b \
    -e OMP_NUM_THREADS="$THREADS" -e KMP_BLOCKTIME=0 \
    python -m helpers.train --flagfile=cluster/flags/mnist_bnn.cfg --num_intra="$THREADS" --resume
