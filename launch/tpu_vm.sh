#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU VM (a slice with one or more hosts). The
# commit that is checked out here is copied to every worker, and nothing starts
# unless all of them have it, unchanged. Their output is shown here, and kept in
# runs/TPU_NAME-TIME.log.
#
# Needs: gcloud with access to the TPU, which exists; git; no uncommitted
# changes; --workdir on a file system of all workers. A TPU VM that was
# preempted is created anew; then the same command resumes.
#
#   TPU_NAME=my-tpu ZONE=us-west4-a \
#     launch/tpu_vm.sh --config=imagenet:granet --workdir=/mnt/shared/runs/1
set -euo pipefail

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

[[ -n ${TPU_NAME:-} && -n ${ZONE:-} ]] || fail 'Set TPU_NAME and ZONE.'
cd "$(dirname "$0")/.."
commit=$(git rev-parse HEAD)
changes=$(git status --porcelain)
[[ -z $changes ]] || fail "Uncommitted changes would not reach the workers:
$changes"
mkdir -p runs
log=runs/$TPU_NAME-$(date +%Y%m%d-%H%M%S).log

tpu() { # COMMAND of gcloud compute tpus tpu-vm, and its arguments.
  gcloud compute tpus tpu-vm "$1" "${@:2}" --zone="$ZONE" --worker=all
}

bundle=$(mktemp)
trap 'rm -f "$bundle"' EXIT
git bundle create --quiet "$bundle" HEAD
tpu scp "$bundle" "$TPU_NAME:sparsejax.bundle"
tpu ssh "$TPU_NAME" --command="set -e
mkdir -p sparsejax && cd sparsejax
git init --quiet
git fetch --quiet --force ~/sparsejax.bundle HEAD
git checkout --quiet --force --detach FETCH_HEAD
[ -e .venv/$commit ] || {
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --allow-existing --python 3.12 .venv
  python3 -m uv pip install --quiet --python .venv -e '.[train,tpu]' \
    -c constraints.txt
  touch .venv/$commit
}"

# One line per worker: its commit, and how many files differ from it.
found=$(tpu ssh "$TPU_NAME" --command="cd sparsejax &&
  echo \"commit \$(git rev-parse HEAD) \$(git status --porcelain | wc -l)\"")
others=$(grep '^commit ' <<<"$found" | grep -vx "commit $commit 0" || true)
[[ $found == *"commit $commit 0"* && -z $others ]] ||
  fail "The workers do not all have commit $commit, unchanged:
$found"

# With a terminal (-tt), the trainer receives SIGHUP when the connection is lost,
# by Ctrl-C here for example, and stops after saving.
printf -v arguments ' %q' "$@"
tpu ssh "$TPU_NAME" --ssh-flag=-tt --command="cd sparsejax &&
  exec env TTY_COMPATIBLE=0 .venv/bin/python -m ${MODULE:-sparsejax.train}$arguments" |
  tee "$log"
