#!/usr/bin/env bash
# Pretraining on machines with 8 GPUs each. Run it in a project folder that all nodes share.
#   ViT-B, 64 GPUs:                sbatch docs/examples/slurm.sh
#   ViT-L and ViT-g, 96 GPUs:      sbatch --nodes=12 docs/examples/slurm.sh
#SBATCH --job-name=franca
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@180
set -uo pipefail

# A request to requeue counts only if this attempt left it.
rm -f runs/requeue.json

export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"  # srun no longer inherits it from sbatch
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=150  # seconds that torchrun waits for a checkpoint; the default is 30

# Network interface of gloo and of NCCL's sockets. On nodes with several, each library may choose one that the other
# nodes cannot reach. The default route's is right on most clusters; a value that you set before sbatch wins. NCCL still
# sends data over InfiniBand if there is any.
interface=$(ip -4 route show default | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1)
export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-$interface}"
export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-$GLOO_SOCKET_IFNAME}"
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun python -m torch.distributed.run \
  --nnodes="$SLURM_NNODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-auto}" \
  --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$first:29500" \
  -m franca pretrain
code=$?

# A run that was asked to stop has saved a checkpoint and asks to be run again.
if [ -f runs/requeue.json ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
