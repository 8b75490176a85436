#!/bin/bash -l
#SBATCH --account=PROJECT
#SBATCH --partition=PARTITION
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --time=1:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --output=%x-%j.txt
# Train under Slurm at any site:  sbatch cluster/sites/slurm/train.sh
# Arguments after the script's name are passed to the training command. Replace PROJECT and PARTITION, and choose
# ranks and threads that fill a node of your site. --exclusive gives whole nodes, so that no other job disturbs
# timings or memory.
# Manual: sbatch(1) and srun(1) of Slurm 22.05. --signal=B:USR1@120 sends SIGUSR1 to this shell 2 minutes before the
# limit. exec puts the launcher in the shell's place, and the launcher passes the signal on to the ranks.
# Tested on a Slurm 22.05 of two nodes with Open MPI's mpiexec; cluster/README.md has the date.
set -euo pipefail
# [T] keeps this line right where you replace the word everywhere in this file.
[[ "${SLURM_JOB_ACCOUNT:-}" != PROJEC[T] ]] ||
    { echo "No project: replace PROJECT in the line #SBATCH --account" >&2; exit 2; }
ulimit -c 0
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
train=(python -m helpers.train --flagfile=cluster/flags/mnist_bnn.cfg --scale_learning_rate=sqrt
    --num_intra="$OMP_NUM_THREADS" --resume "$@")

# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
echo "Job $SLURM_JOB_ID on $(hostname), modules: ${LOADEDMODULES:-none}"
set -x  # prints the launch line
if [ -x .venv/bin/mpiexec ]; then
    # MPI=wheel: srun cannot start this Open MPI, so its own mpiexec finds the job's nodes.
    exec python -m cluster.launcher -n "$SLURM_NTASKS" "${train[@]}"
else
    # MPI=site. srun does not take --cpus-per-task from sbatch. If each rank believes to be alone, srun speaks another
    # dialect than your MPI: choose one of `srun --mpi=list`, such as --mpi=pmix.
    exec srun --ntasks="$SLURM_NTASKS" --cpus-per-task="$OMP_NUM_THREADS" --cpu-bind=cores \
        --kill-on-bad-exit=1 "${train[@]}"
fi
