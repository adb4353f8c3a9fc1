#!/bin/bash
# An elastic job on Slurm: the coordinator on the first node, one agent a node.
#
#   sbatch launch/manifests/slurm.sh launch/train_gmeta.py --run_dir=/shared/ctr
#
# What follows the script's name follows `python` on each node. Run it in the
# checkout, on a file system that all nodes share; RUN_DIR holds the tokens and
# compiled programs. The journal is on the first node's own disk, JOURNAL_DIR:
# shared file systems lack the locks and the fsync that it needs. After a requeue
# elsewhere the job goes on from its last checkpoint without it. A node that dies, or that the controller
# replaces, costs a restart from the last checkpoint on the nodes that are left.
#SBATCH --job-name=antjax
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --open-mode=append
# To the agents, before the time is up or the job is preempted: save and leave.
#SBATCH --signal=TERM@120

set -euo pipefail
umask 077

if (( $# == 0 )); then
  echo "usage: sbatch $0 SCRIPT [FLAG...]" >&2
  exit 2
fi
RUN_DIR=${RUN_DIR:-$PWD/runs/slurm-$SLURM_JOB_ID}
PORT=${PORT:-7070}
MIN_HOSTS=${MIN_HOSTS:-$(( SLURM_JOB_NUM_NODES > 1 ? SLURM_JOB_NUM_NODES - 1 : 1 ))}
ADDRESS=$(hostname -I | cut -d' ' -f1)
JOURNAL_DIR=${JOURNAL_DIR:-${SLURM_TMPDIR:-/tmp}/antjax-$SLURM_JOB_ID}
mkdir -p "$RUN_DIR/tls" "$JOURNAL_DIR"

# Secrets of this job alone. One certificate is all parties' and its own CA.
if [[ ! -e $RUN_DIR/tokens ]]; then
  for role in worker agent operator; do
    echo "$role $(openssl rand -hex 24)"
  done > "$RUN_DIR/tokens"
  grep -v operator "$RUN_DIR/tokens" > "$RUN_DIR/host-tokens"
fi
# Anew after a requeue: the address may be another one.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
  -days 30 -subj "/CN=antjax" -addext "subjectAltName=IP:$ADDRESS" \
  -keyout "$RUN_DIR/tls/key.pem" -out "$RUN_DIR/tls/cert.pem" 2> /dev/null
cp "$RUN_DIR/tls/cert.pem" "$RUN_DIR/tls/ca.pem"

# Killed, it is restarted and resumes from its journal.
coordinate() {
  local child=
  trap 'kill "$child" 2> /dev/null; exit' TERM
  while true; do
    python -m launch.coordinator \
      --address="$ADDRESS" \
      --port="$PORT" \
      --status_port=0 \
      --journal="$JOURNAL_DIR/coordinator.db" \
      --token_file="$RUN_DIR/tokens" \
      --tls_dir="$RUN_DIR/tls" \
      --policy="${POLICY:-antdt_nd}" \
      --min_hosts="$MIN_HOSTS" \
      --max_hosts="$SLURM_JOB_NUM_NODES" &
    child=$!
    wait "$child" || sleep 1
  done
}

# An agent that was killed (137) or replaced (75) is started again; one that was
# told to go (143) is not, nor one whose job is over.
supervise() {
  local node=$1 code
  shift
  while true; do
    code=0
    srun --nodes=1 --ntasks=1 --nodelist="$node" --no-kill --overlap \
      python -m launch.agent \
      --coordinator="$ADDRESS:$PORT" \
      --job="slurm-$SLURM_JOB_ID" \
      --name="$node" \
      --token_file="$RUN_DIR/host-tokens" \
      --tls_dir="$RUN_DIR/tls" \
      --compilation_cache="$RUN_DIR/compilation_cache" \
      --grace_s=100 \
      -- "$@" || code=$?
    (( code == 75 || code == 137 )) || return "$code"
    sleep 1
  done
}

coordinate &
coordinator=$!
trap 'kill "$coordinator" 2> /dev/null || true' EXIT
trap : TERM  # The agents get it too; wait for them.

agents=()
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
  supervise "$node" "$@" &
  agents+=("$!")
done

# The job's exit code: 0 if one agent saw it succeed, else that of one.
result=
for agent in "${agents[@]}"; do
  code=0
  # A signal ends `wait` before the agent has ended.
  while true; do
    code=0
    wait "$agent" || code=$?
    kill -0 "$agent" 2> /dev/null || break
  done
  if [[ -z $result ]] || (( code == 0 )); then
    result=$code
  fi
done
exit "$result"
