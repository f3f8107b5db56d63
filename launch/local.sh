#!/usr/bin/env bash
# Trains in N processes on this machine. The first failure ends all of them, and
# its exit status is that of this script. SIGTERM, SIGHUP and Ctrl-C reach every
# process as SIGTERM: the run is saved and stops, and the same command resumes.
#
# Needs: bash 5.1; `pip install -e '.[train]'` in the environment of $PYTHON
# (default: python). Accelerators have to be shared out, by CUDA_VISIBLE_DEVICES
# for example; on a CPU, JAX_NUM_CPU_DEVICES sets the devices of a process.
#
#   launch/local.sh 2 --config=digits --workdir=runs/two
set -uo pipefail

readonly GRACE_SECONDS=30 # Until what is left after a failure is killed.

usage() {
  printf 'error: %s\nUse: launch/local.sh N --config=NAME --workdir=DIR\n' "$1" >&2
  exit 2
}

[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || usage "N must be at least 1, got '${1:-}'."
count=$1
shift
python=${PYTHON:-python}
port=$("$python" -c 'import socket
with socket.socket() as server:
  server.bind(("127.0.0.1", 0))
  print(server.getsockname()[1])') || usage "$python does not start."

declare -A running # By the number of the process.
killer=
pass_on() { kill -TERM "${!running[@]}" 2>/dev/null; }
trap pass_on TERM INT HUP
trap '[[ -z $killer ]] || kill "$killer"' EXIT

for ((id = 0; id < count; id++)); do
  "$python" -m "${MODULE:-sparsejax.train}" "$@" --num_processes="$count" \
    --process_id="$id" --coordinator_address="127.0.0.1:$port" &
  running[$!]=$id
done

status=0
while ((${#running[@]})); do
  ended=
  wait -n -p ended "${!running[@]}"
  code=$?
  [[ -n ${ended:-} ]] || continue # A signal came, and was passed on.
  unset "running[$ended]"
  if ((code && !status && ${#running[@]})); then
    # 143: they all save the same step, and end by themselves.
    ((code == 143)) || pass_on
    { # A sleep without a process that outlives this script.
      read -rt "$GRACE_SECONDS" <> <(:)
      kill -KILL "${!running[@]}"
    } 2>/dev/null &
    killer=$!
  fi
  ((status)) || status=$code
done
exit "$status"
