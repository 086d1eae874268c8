#!/usr/bin/env bash
# What launch/tpu.sh runs on every machine of a TPU slice; not meant to be called by hand.
#   tpu_worker.sh install                 a Python environment with this package and jax for TPU
#   tpu_worker.sh mount BUCKET[/FOLDER] [CACHE_MB]   read-only at /mnt/data
#   tpu_worker.sh start train ...         begins the run, which goes on when the connection ends
#   tpu_worker.sh poll                    prints "status WORKER absent|running|lost" or "status WORKER exited CODE TIME"
#   tpu_worker.sh log LINE                prints the whole lines of the log after that line
#   tpu_worker.sh tail LINES | stop
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
help_if_asked "$@"

# Outside of the copied code, which every start replaces.
state="$HOME/unireplknet_run"
export VIRTUAL_ENV="$HOME/unireplknet_venv"
mount_point="${UNIREPLKNET_MOUNT:-/mnt/data}"
grace="${UNIREPLKNET_GRACE:-10}"

# The images of TPU VMs are Ubuntu 22.04 with Python 3.10; uv brings a newer one: https://docs.astral.sh/uv/pip/environments/
install() {
  local python
  if [[ ! -x $VIRTUAL_ENV/bin/python ]]; then
    if python="$(find_python 2>/dev/null)" && "$python" -c 'import ensurepip, venv' 2>/dev/null; then
      "$python" -m venv "$VIRTUAL_ENV"
    else
      python3 -m pip install --quiet --user uv || fail "pip could not install uv, which brings Python 3.12; see its message above."
      python3 -m uv venv --quiet --seed --python 3.12 "$VIRTUAL_ENV" || fail "uv could not make an environment with Python 3.12."
    fi
  fi
  # jax[tpu]: https://docs.jax.dev/en/latest/installation.html; gcsfs: a workdir gs://...
  "$VIRTUAL_ENV/bin/python" -m pip install --quiet --editable "$repository" "jax[tpu]" gcsfs ||
    fail "pip could not install unireplknet_jax; see its message above."
}

# https://cloud.google.com/storage/docs/cloud-storage-fuse/install
install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc
  curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -c -s) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  # A fresh machine updates itself in the background and holds the lock of apt meanwhile.
  sudo apt-get -o DPkg::Lock::Timeout=300 update -qq
  sudo apt-get -o DPkg::Lock::Timeout=300 install -qq -y gcsfuse >/dev/null
}

# Options: https://cloud.google.com/storage/docs/cloud-storage-fuse/cli-options
mount_bucket() {
  local bucket="${1%%/*}" folder="${1#*/}" cache="${2:-}" options
  # The data does not change during a run, so what is known of the files never expires.
  options=(-o ro --implicit-dirs --metadata-cache-ttl-secs=-1)
  if [[ $1 == */?* ]]; then
    options+=(--only-dir "${folder%/}")
  fi
  if [[ -n $cache ]]; then
    options+=(--cache-dir /tmp/gcsfuse_cache --file-cache-max-size-mb="$cache" --file-cache-cache-file-for-range-read)
  fi
  command -v gcsfuse >/dev/null || install_gcsfuse || fail "gcsfuse could not be installed; see the message above."
  if mountpoint -q "$mount_point"; then
    fusermount -u "$mount_point"
  fi
  sudo mkdir -p "$mount_point"
  sudo chown "$(id -u)" "$mount_point"
  gcsfuse "${options[@]}" "$bucket" "$mount_point" ||
    fail "the bucket gs://$bucket could not be mounted: does the slice's service account have the role Storage Object Viewer on it?"
}

is_running() {
  [[ -f $state/pid ]] && ps -o args= -p "$(<"$state/pid")" 2>/dev/null | grep -q supervise
}

start() {
  if is_running; then
    fail "a run is already going on on this machine."
  fi
  mkdir -p "$state"
  rm -f "$state/exit"
  # In a session of its own: it has no terminal to lose.
  setsid bash "${BASH_SOURCE[0]}" supervise "$@" >>"$state/log" 2>&1 </dev/null &
  echo $! >"$state/pid"
  echo "status $(worker) running"
}

# The run and, when it has ended, its exit code; a machine that goes down sends TERM to both, and only python acts on it.
supervise() {
  local code=0
  trap : TERM
  cd "$repository"
  echo "--- $(date -u '+%F %T') UTC, worker $(worker): $*"
  export UNIREPLKNET_DISTRIBUTED=auto PYTHONUNBUFFERED=1
  "$VIRTUAL_ENV/bin/python" -m unireplknet_jax "$@" || code=$?
  echo "$code $(date +%s)" >"$state/exit.part"
  mv "$state/exit.part" "$state/exit"
}

# As jax itself finds it out (jax/_src/clusters/cloud_tpu_cluster.py).
worker() {
  curl -fsS -H 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number"
}

poll() {
  local what=absent
  if [[ -f $state/exit ]]; then
    what="exited $(<"$state/exit")"
  elif is_running; then
    what=running
  elif [[ -f $state/pid ]]; then
    what=lost
  fi
  echo "status $(worker) $what"
}

log() {
  local total=0
  if [[ -f $state/log ]]; then
    total="$(wc -l <"$state/log")"
  fi
  if [[ $total -gt $1 ]]; then
    sed -n "$(($1 + 1)),${total}p" "$state/log"
  fi
}

stop() {
  local pid i
  if ! is_running; then
    return
  fi
  pid="$(<"$state/pid")"
  kill -TERM -- "-$pid" 2>/dev/null || true
  for ((i = 0; i < grace * 10; i++)); do
    kill -0 -- "-$pid" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL -- "-$pid" 2>/dev/null || true
}

command="${1:-}"
shift || true
case "$command" in
  install | start | supervise | poll | log | stop) "$command" "$@" ;;
  mount) mount_bucket "$@" ;;
  tail) tail -n "$1" "$state/log" ;;
  *) fail "unknown command '$command': launch/tpu.sh calls this script." ;;
esac
