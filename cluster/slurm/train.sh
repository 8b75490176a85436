#!/bin/bash -l
# The training command under Slurm, by hand, from the course's folder:  sbatch cluster/slurm/train.sh
# What stands behind the script's name goes to the command:  sbatch cluster/slurm/train.sh --epochs=3
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=1
#SBATCH --time=1:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --output=slurm-%j.txt
set -e
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
train=(python -m helpers.train --flagfile=cluster/flags/mnist_bnn.cfg --num_intra="$OMP_NUM_THREADS" --resume "$@")

# Slurm sends SIGUSR1 to this shell two to three minutes before the limit. exec puts the launcher in the shell's place,
# so the launcher hands the signal on to the ranks. They save a checkpoint and end, and the next job resumes from it.
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
if [ -x .venv/bin/mpiexec ]; then
    # MPI=wheel: this Open MPI speaks no dialect of srun's; its own mpiexec finds the job's nodes.
    exec python -m cluster.launcher -n "$SLURM_NTASKS" "${train[@]}"
else
    # MPI=site. srun does not take --cpus-per-task over from sbatch.
    exec srun --ntasks="$SLURM_NTASKS" --cpus-per-task="$OMP_NUM_THREADS" --cpu-bind=cores --kill-on-bad-exit=1 "${train[@]}"
fi
