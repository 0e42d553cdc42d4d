#!/usr/bin/env bash
# Pretraining on 8 nodes of 8 GPUs: sbatch docs/examples/slurm.sh, in a project folder that all nodes share.
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

# Only what this attempt leaves counts.
rm -f runs/requeue.json

export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"  # else srun takes one
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=150  # torchrun's patience with a checkpoint, in seconds; else 30
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun python -m torch.distributed.run \
  --nnodes="$SLURM_NNODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-auto}" \
  --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$first:29500" \
  -m franca pretrain
code=$?

# A run that was told to stop has saved its state and asks to be run again.
if [ -f runs/requeue.json ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
