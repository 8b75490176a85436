#!/bin/bash -l
#COBALT -n 8
#COBALT -t 60
#COBALT -q debug-cache-quad
#COBALT -A PROJECT
#COBALT --attrs mcdram=cache:numa=quad
# Train on Theta (ALCF, Cray XC40), 4 ranks per node:  qsub cluster/sites/theta/train.sh
# Theta stopped on 31 December 2023. The published runs were made there. The script is kept so that you can read it
# beside them, and for other machines with Cobalt or aprun. The ALCF's machine for CPUs is now Crux:
# cluster/sites/crux/train.sh.
# A node is a 64-core KNL with 4 hardware threads per core. The queue debug-cache-quad gave 1 to 8 nodes for at most 1
# hour. The default queue charged 128 nodes or more. Cobalt stops reading directives at the first other line, and the
# file must be executable.
# Manual: ALCF user guides, docs/theta/queueing-and-running-jobs/job-and-queue-scheduling.md, as of 11 October 2023;
# HPE a00114008en_us_v2, "Additional aprun Information": aprun passes SIGUSR1 on to the ranks. This script was not run
# there.
set -euo pipefail
ulimit -c 0
# [T] keeps this line right where you replace the word everywhere in this file.
! grep -q '^#COBALT -A PROJEC[T]' "$0" || { echo "No project: replace PROJECT in the line #COBALT -A" >&2; exit 2; }

PPN=4       # MPI ranks on each node
THREADS=32  # threads of each rank; PPN * THREADS is at most 64 cores times the 2 of -j

# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
echo "Job $COBALT_JOBID on $(hostname), modules: ${LOADEDMODULES:-none}"
set -x  # prints the launch line
# The script runs on a service node, and only aprun reaches the compute nodes. -cc depth with -d gives each rank its
# own hardware threads. -b lets the ranks read the program from the shared file system. 2 minutes before the limit,
# timeout asks the training to save and stop.
timeout --preserve-status --signal=USR1 3480 \
    aprun -n $((COBALT_PARTSIZE * PPN)) -N "$PPN" -cc depth -d "$THREADS" -j 2 -b \
    -e OMP_NUM_THREADS="$THREADS" -e KMP_BLOCKTIME=0 \
    python -m helpers.train --flagfile=cluster/flags/mnist_bnn.cfg --scale_learning_rate=sqrt \
    --num_intra="$THREADS" --resume
