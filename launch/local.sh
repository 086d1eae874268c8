#!/usr/bin/env bash
# Starts one run as several processes on this machine: one per GPU, or several on CPU to try out what a cluster does.
#   launch/local.sh -n 2 [--devices 4] -- train --config configs/imagenet1k.py:s --workdir runs/s
# --devices D is for CPU: every process gets D of its devices. Otherwise process i takes GPU i.
# Each line of output begins with the number of its process. TERM and Ctrl-C go to all processes, which then save their
# state; the exit code 75 says that the same command goes on from there. If one process fails, the others are ended.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
help_if_asked "$@"

usage="write $0 -n PROCESSES [--devices D] -- train --config FILE.py:ARG --workdir DIR."
again=75 # what the train command returns once it has saved its state
grace="${UNIREPLKNET_GRACE:-30}" # seconds between asking the remaining processes to end and ending them
processes="" devices=""
while [[ $# -gt 0 && $1 != -- ]]; do
  case "$1" in
    -n) processes="${2:-}" ;;
    --devices) devices="${2:-}" ;;
    *) fail "unexpected argument '$1': $usage" ;;
  esac
  [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || fail "$1 takes a positive number and got '${2:-}': $usage"
  shift 2
done
[[ -n $processes ]] || fail "-n, the number of processes, is missing: $usage"
[[ $# -gt 1 ]] || fail "there is nothing to run after --: $usage"
shift

if [[ -z ${VIRTUAL_ENV:-} ]]; then
  enter_environment
  install_package ""
fi
python="$VIRTUAL_ENV/bin/python"

port="$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
pids=() loggers=() codes=()
folder="$(mktemp -d)"

# One process as it is started: what it prints goes to a named pipe from which prefix() reads.
start() {
  export UNIREPLKNET_COORDINATOR="127.0.0.1:$port" UNIREPLKNET_PROCESSES="$processes" UNIREPLKNET_PROCESS="$1"
  export PYTHONUNBUFFERED=1
  if [[ -n $devices ]]; then
    export JAX_NUM_CPU_DEVICES="$devices" JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
  elif [[ ${JAX_PLATFORMS:-} != cpu ]]; then
    # jax.distributed.initialize reads it: without it every process would take all GPUs.
    export JAX_LOCAL_DEVICE_IDS="$1"
  fi
  shift 2
  exec "$python" -m unireplknet_jax "$@"
}

prefix() {
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    printf '[%s] %s\n' "$1" "$line"
  done
}

forward() {
  local pid
  for pid in "${pids[@]}"; do
    kill "-$1" "$pid" 2>/dev/null || true
  done
}

# Ends what is left, with the data workers that the processes may have started: each leads a process group.
end_groups() {
  local pid
  for pid in "${pids[@]+"${pids[@]}"}"; do
    kill -KILL -- "-$pid" 2>/dev/null || true
  done
}

# `sleep` in the background: a trap runs as soon as its signal comes, not when the sleep is over.
pause() {
  sleep 0.2 &
  wait $! || true
}

# Notes the codes of the processes that have ended in codes[]; succeeds while one still runs.
some_run() {
  local i code running=1
  for ((i = 0; i < processes; i++)); do
    if [[ -n ${codes[i]} ]]; then
      continue
    elif kill -0 "${pids[i]}" 2>/dev/null; then
      running=0
    else
      code=0
      wait "${pids[i]}" || code=$?
      codes[i]=$code
      # The first failure is the cause, whatever it then did to the others; so is what this script ended itself.
      if [[ $code -ne 0 && -z $killed && ($result -eq 0 || $result -eq $again) ]]; then
        result=$code
      fi
    fi
  done
  return $running
}

result=0 killed=""
trap 'end_groups; rm -rf "$folder"' EXIT
trap 'forward TERM' TERM HUP
trap 'forward INT' INT
set -m # a process group for each: Ctrl-C comes to this script alone, and a background process does not ignore it
for ((i = 0; i < processes; i++)); do
  # Both ends are opened here: a process that a signal ends before it has opened its own would leave the other waiting.
  mkfifo "$folder/$i"
  # shellcheck disable=SC2094
  exec {both}<>"$folder/$i" {output}<"$folder/$i" {input}>"$folder/$i" {both}>&-
  prefix "$i" <&"$output" {output}<&- {input}>&- &
  loggers+=($!)
  start "$i" -- "$@" >&"$input" 2>&1 </dev/null {output}<&- {input}>&- &
  pids+=($!) codes+=("")
  exec {output}<&- {input}>&-
done

deadline=""
while some_run 2>/dev/null; do # bash itself reports there which processes were killed
  if [[ $result -ne 0 && -z $deadline ]]; then
    deadline=$((SECONDS + grace + 1)) # SECONDS is whole seconds
    if [[ $result -ne $again ]]; then
      echo "a process ended with code $result; ending the others" >&2
      forward TERM
    fi
  elif [[ -n $deadline && $SECONDS -ge $deadline ]]; then
    killed=yes
    forward KILL
  fi
  pause 2>/dev/null
done
end_groups # or their data workers would keep the pipes open
wait "${loggers[@]}"
exit "$result"
