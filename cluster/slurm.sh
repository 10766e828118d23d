#!/bin/bash
# One Ray over the nodes of a Slurm job; the first node runs the command:
#   sbatch --nodes 2 --gpus-per-node 8 cluster/slurm.sh train --data /shared/shards --storage /shared/runs --name face
# Submit from a folder that all nodes share. A job that is requeued goes on from its latest checkpoint, thanks to --name.
#SBATCH --job-name=ferry
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=ferry-%j.log
# --exclusive because Ray stops every Ray of a node at its end. Choose a partition, an account and a time limit:
##SBATCH --partition=gpu --account=faces --time=24:00:00
set -euo pipefail

module load cuda 2>/dev/null || true                 # yours, if the site has modules
source "${FERRY_VENV:-.venv}/bin/activate"           # yours: an environment with Ferry, on the shared disk

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(getent ahostsv4 "$head" | awk 'NR == 1 { print $1 }')
port=$((20000 + SLURM_JOB_ID % 20000))               # two jobs of one user, on nodes that both can reach, stay apart
status=$PWD/.ferry-$SLURM_JOB_ID.status              # symmetric-run returns 0 even if Ray did not start
rm -f "$status"

export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${FERRY_NODE_WAIT:-600}

srun --kill-on-bad-exit=1 ray symmetric-run --address "$address:$port" --min-nodes "$SLURM_NNODES" \
    --num-cpus "${SLURM_CPUS_ON_NODE:?}" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats -- \
    bash -c 'python -m jobs "$@"; echo $? > "$0"' "$status" "$@" || true

if [ ! -f "$status" ]; then
    echo "Ray did not start on all $SLURM_NNODES nodes; it waits for them for $RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT s" >&2
    exit 1
fi
code=$(cat "$status")
rm -f "$status"
exit "$code"
