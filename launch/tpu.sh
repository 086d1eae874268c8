#!/usr/bin/env bash
# Trains on a Cloud TPU slice: creates it, copies this repository, installs it, starts the run on all its machines,
# follows it, creates the slice again and resumes after a pre-emption, and deletes it after the last step.
#   launch/tpu.sh run --name N --type v5litepod-16 --zone Z [OPTIONS] -- \
#     train --config configs/imagenet1k.py:s --workdir gs://B/s
#   launch/tpu.sh status|delete --name N --zone Z [--queued]
#   launch/tpu.sh logs --name N --zone Z [--worker K]
#   launch/tpu.sh ssh --name N --zone Z [--worker K|all] -- COMMAND
# Options: --project P; --spot: cheaper, may be taken away; --queued: wait in Google's queue for the slice, with --wait 6h
# at most so long; --version V: the TPU software, else chosen by type; --bucket gs://B[/FOLDER]: data, read-only at
# /mnt/data; --cache-mb M: of disk for it; --max-restarts K (20); --keep: do not delete; --dry-run: print the commands and
# call nothing. The workdir must be a bucket. `run` of a slice that is already running follows it, so a run outlives this
# terminal. See docs/launch.md.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
help_if_asked "$@"
# shellcheck source-path=SCRIPTDIR source=tpu_slice.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu_slice.sh"

poll_seconds="${UNIREPLKNET_POLL:-30}"
patience=20 # polls without an answer, or with some machines done and others not
mount_point=/mnt/data # of the bucket, on every machine
again=75    # what the train command returns once it has saved its state
worker_script="bash unireplknet/launch/tpu_worker.sh"
name="" type="" zone="" project="" version="" bucket="" cache_mb="" wait_limit=""
spot="" queued="" keep="" dry_run="" worker="" max_restarts=20
folder="" workers=0 log_line=0

parse() {
  command="${1:-}"
  [[ $command =~ ^(run|status|logs|delete|ssh)$ ]] || fail "write $0 run|status|logs|ssh|delete; got '$command'."
  shift
  while [[ $# -gt 0 && $1 != -- ]]; do
    case "$1" in
      --spot) spot=yes ;;
      --queued) queued=yes ;;
      --keep) keep=yes ;;
      --dry-run) dry_run=yes ;;
      --name | --type | --zone | --project | --version | --bucket | --cache-mb | --wait | --worker | --max-restarts)
        [[ -n ${2:-} && $2 != -- ]] || fail "$1 needs a value."
        set_option "$1" "$2"
        shift
        ;;
      *) fail "unknown option '$1'; what follows -- is for the $([[ $command == ssh ]] && echo slice || echo run)." ;;
    esac
    shift
  done
  shift || true
  arguments=("$@")
}

set_option() {
  case "$1" in
    --name) name="$2" ;;
    --type) type="$2" ;;
    --zone) zone="$2" ;;
    --project) project="$2" ;;
    --version) version="$2" ;;
    --bucket) bucket="$2" ;;
    --cache-mb) cache_mb="$2" ;;
    --wait) wait_limit="$2" ;;
    --worker) worker="$2" ;;
    --max-restarts) max_restarts="$2" ;;
  esac
}

check() {
  [[ -n $name ]] || fail "--name, the name of the slice, is missing."
  [[ -n $zone ]] || fail "--zone is missing, for example --zone us-west4-a; which zones have which TPU: https://cloud.google.com/tpu/docs/regions-zones."
  [[ $command != ssh || ${#arguments[@]} -gt 0 ]] || fail "there is no command after --."
  if [[ $command == run ]]; then
    check_run
  fi
  [[ -n $dry_run ]] || command -v gcloud >/dev/null ||
    fail "gcloud was not found: install it (https://cloud.google.com/sdk/docs/install) and run 'gcloud init'."
}

check_run() {
  local example="for example -- train --config configs/imagenet1k.py:s --workdir gs://BUCKET/s" workdir recipe
  [[ -n $type ]] || fail "--type is missing, for example --type v5litepod-16."
  [[ ${arguments[0]:-} == train ]] || fail "write the run after --, $example."
  [[ -z $bucket || $bucket == gs://?* ]] || fail "--bucket is '$bucket'; expected an address such as gs://my-bucket/imagenet."
  [[ $max_restarts =~ ^[0-9]+$ ]] || fail "--max-restarts is '$max_restarts'; expected a number."
  [[ -n $queued || -z $wait_limit ]] || fail "--wait needs --queued: only a queued request waits in Google's queue."
  if [[ -z $version ]]; then
    choose_version
  fi
  git -C "$repository" rev-parse --git-dir >/dev/null 2>&1 || fail "$repository is no git checkout; the files that git knows are what is copied."
  workdir="$(train_option --workdir)"
  [[ $workdir =~ ^gs://[^/] ]] ||
    fail "--workdir of the run is ${workdir:-missing}; expected a bucket, since the disks of a slice go with it: $example."
  recipe="$(train_option --config)"
  [[ -n $recipe ]] || fail "--config of the run is missing, $example."
  recipe="${recipe%%:*}"
  if [[ $recipe != */* && -f $repository/configs/$recipe && ! -f $repository/$recipe ]]; then
    recipe="configs/$recipe" # one that ships
  fi
  [[ -f $repository/$recipe && -n "$(known_files "$recipe" | tr -d '\0')" ]] ||
    fail "there is no recipe $recipe among the files that are copied; expected its path in $repository, such as configs/imagenet1k.py."
  [[ -z $bucket ]] || reads_bucket "$recipe"
}

# Fails unless the run reads what is mounted: by an override of its folder, or by the recipe $1 itself.
reads_bucket() {
  local data
  data="$(train_option --config.data.dir)"
  [[ $data != "$mount_point" && $data != "$mount_point"/* ]] || return 0
  if [[ -z $data ]] && grep -qE "dir[\"']?\]? *[:=] *[\"']$mount_point" "$repository/$1"; then
    return
  fi
  fail "--bucket $bucket is mounted at $mount_point, but the run reads ${data:-no folder}: add --config.data.dir=$mount_point (with --config.data.name for what lies there), or leave out --bucket."
}

# The value of the option $1 of the train command, the last one if there are several; nothing where it is not there.
train_option() {
  local i value=""
  for ((i = 1; i < ${#arguments[@]}; i++)); do
    case "${arguments[i]}" in
      "$1") value="${arguments[i + 1]:-}" ;;
      "$1="*) value="${arguments[i]#*=}" ;;
    esac
  done
  printf '%s' "$value"
}

# The files that are copied, all or those at the paths in $@, with a NUL after each.
known_files() {
  git -C "$repository" --literal-pathspecs ls-files -z --cached --others --exclude-standard -- "$@" 2>/dev/null
}

# https://cloud.google.com/tpu/docs/runtimes
choose_version() {
  case "$type" in
    v6e-*) version=v2-alpha-tpuv6e ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v2-* | v3-* | v4-*) version=tpu-ubuntu2204-base ;;
    *) fail "no software version is known for --type $type: name one with --version, see https://cloud.google.com/tpu/docs/runtimes." ;;
  esac
}

pack() {
  local files=() file
  while IFS= read -r -d '' file; do
    if [[ -e $repository/$file ]]; then
      files+=("$file")
    fi
  done < <(known_files)
  tar -czf "$folder/unireplknet.tar.gz" -C "$repository" "${files[@]}"
}

# Copies, installs and starts the run on all machines; fails where that did not work.
prepare() {
  local out
  [[ -n $dry_run ]] || pack
  echo "copying the code to $name and installing it (minutes)"
  tpus tpu-vm scp "$folder/unireplknet.tar.gz" "$name:unireplknet.tar.gz" --worker=all || return
  # Nothing worth keeping runs here, but machines whose peers are gone would wait for them for ever.
  remote all "{ $worker_script stop 2>/dev/null || true; } && rm -rf unireplknet && mkdir unireplknet && tar -xzf unireplknet.tar.gz -C unireplknet && $worker_script install" || return
  if [[ -n $bucket ]]; then
    remote all "$worker_script mount $(quoted "${bucket#gs://}" ${cache_mb:+"$cache_mb"})" || return
  fi
  log_line="$(remote 0 "$worker_script log 0 | wc -l")" || return
  out="$(remote all "$worker_script start $(quoted "${arguments[@]}")")" || return
  workers="$(grep -c '^status ' <<<"$out" || true)"
}

# The run's log up to here, of machine 0.
show_log() {
  local text
  if text="$(remote 0 "$worker_script log $log_line")" && [[ -n $text ]]; then
    printf '%s\n' "$text"
    log_line=$((log_line + $(wc -l <<<"$text")))
  fi
}

# Polls all machines once; sets answer to running, ending (some have stopped), done, again, failed, none (nothing was ever
# started) or silent. Where a machine was told to stop or was restarted, that is why its peers failed.
ask() {
  local status
  answer=silent
  status="$(remote all "$worker_script poll 2>/dev/null || true")" || return 0
  status="$(grep -E '^status [0-9]+ ' <<<"$status" || true)"
  if [[ -z $status ]]; then
    answer=none
    return
  fi
  awk -v again="$again" -v known="$workers" '
    { n += 1 }
    $3 == "exited" && $4 != 0 && $4 != again { if (!bad || $5 < time) { bad = 1; who = $2; code = $4; time = $5 } }
    $3 == "exited" && $4 == 0 { zero += 1 }
    ($3 == "exited" && $4 == again) || $3 == "lost" { more += 1 }
    $3 == "running" { run += 1 }
    END {
      if (bad && !more) print "failed", who, code
      else if (n < known) print "silent"
      else if (run) print (more ? "ending" : "running")
      else if (more) print "again"
      else if (zero == n) print "done"
      else print "none"
    }' <<<"$status" >"$folder/answer"
  read -r answer failed_worker failed_code <"$folder/answer" || true
  if [[ $workers -eq 0 ]]; then
    workers="$(wc -l <<<"$status")"
  fi
}

# Follows the run until it ends; sets answer to done, again, failed or gone.
follow() {
  local silence=0 state seen=""
  while true; do
    ask
    case "$answer" in
      running) silence=0 ;;
      silent | none | ending | failed)
        state="$(node_state)"
        if [[ $state != READY && $state != UNKNOWN && $state != REPAIRING && $state != RESTARTING ]]; then
          answer=gone
          return
        fi
        # The peers of a machine that is being taken away fail before the slice is known to be: look twice.
        if [[ $answer == failed && $seen == failed ]]; then
          show_log
          return
        fi
        seen="$answer"
        silence=$((silence + 1))
        if [[ $silence -gt $patience && $answer == ending ]]; then
          remote all "$worker_script stop" || true
          answer=again
          return
        fi
        if [[ $silence -gt $patience ]]; then
          said
          give_up "the machines of $name do not answer any more, though the slice is $state; the run may go on there: the same command follows it again."
        fi
        ;;
      *)
        show_log
        return
        ;;
    esac
    show_log
    sleep "$poll_seconds"
  done
}

# A machine that failed: its words, an end to the others, and no second try, since the same error would come again.
report_failure() {
  echo "worker $failed_worker ended with code $failed_code; the end of its log:" >&2
  remote "$failed_worker" "$worker_script tail 40" >&2 || said
  remote all "$worker_script stop" || said
  billed
  echo "error: the run failed on worker $failed_worker; its whole log is at ~/unireplknet_run/log there." >&2
  exit "$failed_code"
}

interrupted() {
  echo >&2
  if [[ -n $slice_may_exist ]]; then
    echo "Stopped watching; a run that was started goes on, and the same command follows it again." >&2
    billed
  fi
  exit 130
}

run() {
  local restarts=0 attach=yes
  trap interrupted INT TERM
  while true; do
    ensure_slice
    answer=none
    if [[ $attach == yes && -z $fresh ]]; then
      ask
    fi
    attach=""
    if [[ $answer == running ]]; then
      echo "a run is going on on $name already: following it"
    elif ! prepare; then
      said
      answer=gone
      if [[ "$(node_state)" == READY && $((failures += 1)) -ge 3 ]]; then
        give_up "the run could not be started on $name; see what gcloud says above."
      fi
    else
      answer=running
    fi
    if [[ -n $dry_run ]]; then
      dry_end
      return
    fi
    if [[ $answer == running ]]; then
      follow
    fi
    case "$answer" in
      done) break ;;
      failed) report_failure ;;
    esac
    restarts=$((restarts + 1))
    [[ $restarts -le $max_restarts ]] || give_up "the run was interrupted $restarts times, more than --max-restarts $max_restarts; the same command goes on with it."
    echo "the run was interrupted ($restarts of at most $max_restarts); resuming it"
  done
  finish
}

# The rest of what a run calls, where nothing is called.
dry_end() {
  echo "# every $poll_seconds seconds, until all machines are done:"
  ask
  remote 0 "$worker_script log 0"
  echo "# after a pre-emption, and then from the creation on once more:"
  delete_slice
  echo "# after a failure of worker 0:"
  remote 0 "$worker_script tail 40"
  remote all "$worker_script stop"
  if [[ -z $keep ]]; then
    echo "# in the end:"
    delete_slice
  fi
}

finish() {
  if [[ -n $keep ]]; then
    echo "The run is done."
    billed
  elif delete_slice; then
    echo "The run is done and the slice $name is deleted."
  else
    said
    give_up "the run is done, but the slice $name could not be deleted."
  fi
}

command="" arguments=() failures=0 fresh="" answer="" failed_worker="" failed_code=1
exec 3>&1
parse "$@"
check
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
case "$command" in
  run) run ;;
  status)
    if [[ -n $queued ]]; then
      tpus queued-resources describe "$name" --format='value(state.state)' || { said; fail "there is no request $name in $zone."; }
    fi
    tpus tpu-vm describe "$name" --format='value(state)' || { said; fail "there is no slice $name in $zone."; }
    remote all "$worker_script poll" || said
    ;;
  logs) remote "${worker:-0}" "tail -n 100 -f unireplknet_run/log" || { said; fail "the log of $name could not be read."; } ;;
  ssh) remote "${worker:-all}" "${arguments[*]}" || { code=$?; said; exit "$code"; } ;;
  delete) delete_slice || { said; fail "the slice $name could not be deleted."; } ;;
esac
