#!/bin/bash -l
#PBS -A PROJECT
#PBS -q debug
#PBS -l select=2:system=polaris
#PBS -l place=scatter
#PBS -l walltime=1:00:00
#PBS -l filesystems=home:eagle
#PBS -j oe
# Run notebook 06 with MPI engines on all GPUs of a job on Polaris:  qsub cluster/sites/polaris/notebooks.sh
# The manual, the queue and the variables for NCCL are explained in train.sh. This script was not run there.
set -euo pipefail
[[ "${PBS_ACCOUNT:-}" != PROJEC[T] ]] || { echo "No project: replace PROJECT in the line #PBS -A" >&2; exit 2; }
ulimit -c 0
cd "$PBS_O_WORKDIR"
module use /soft/modulefiles  # system-updates.md: no longer on the default path
module load PrgEnv-gnu cray-mpich cray-python cudatoolkit-standalone
export MPICH_GPU_SUPPORT_ENABLED=0
export NCCL_NET_GDR_LEVEL=PHB NCCL_CROSS_NIC=1 NCCL_COLLNET_ENABLE=1 NCCL_NET="AWS Libfabric"
export LD_LIBRARY_PATH=/soft/libraries/hwloc/lib:/soft/libraries/aws-ofi-nccl/v1.9.1-aws/lib:${LD_LIBRARY_PATH:-}
export FI_CXI_DISABLE_HOST_REGISTER=1 FI_MR_CACHE_MONITOR=userfaultfd FI_CXI_DEFAULT_CQ_SIZE=131072
export BNN_RANKS_PER_NODE=4 OMP_NUM_THREADS=8 BNN_CPU_BIND=list:24-31:16-23:8-15:0-7

# papermill, the kernels and the controller run on the first node. cluster/launcher.py starts the engines on all
# nodes; it takes the nodes from PBS_NODEFILE and the layout from the variables above.
# shellcheck disable=SC1091  # set-up makes it
source .venv/bin/activate
echo "Job $PBS_JOBID on $(hostname), modules: ${LOADEDMODULES:-none}"
set -x  # prints the launch line
python -m cluster.run_notebooks --profile full --only 06 --output "build/$PBS_JOBID"
