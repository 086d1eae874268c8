# Sourced by launch/tpu.sh: the calls of gcloud, and the life of a slice. Cloud TPU's own guide:
# https://cloud.google.com/tpu/docs/managing-tpus-tpu-vm, https://cloud.google.com/tpu/docs/queued-resources, https://cloud.google.com/tpu/docs/spot
# shellcheck shell=bash disable=SC2154,SC2034 # tpu.sh sets the options and reads `fresh`

capacity_tries=12 # creations that are refused for want of capacity, about 90 minutes
state_tries=60    # looks at a slice that is not READY
slice_may_exist=""

# gcloud compute tpus GROUP VERB NAME ...; its own talk goes to $folder/said, to be shown when it fails. The flags are in
# https://cloud.google.com/sdk/gcloud/reference/compute/tpus/tpu-vm and .../queued-resources, a page for each verb.
tpus() {
  local words=(gcloud compute tpus "$@" --zone="$zone" ${project:+"--project=$project"})
  if [[ -n $dry_run ]]; then
    quoted "${words[@]}" >&3
    echo >&3
    return
  fi
  "${words[@]}" 2>"$folder/said"
}

# Runs a command on the machines $1 ("all" or a number). A machine that is gone must not leave the connection hanging.
remote() {
  tpus tpu-vm ssh "$name" --worker="$1" --command="$2" --ssh-flag=-oServerAliveInterval=15 --ssh-flag=-oConnectTimeout=30
}

# The words as a shell reads them back.
quoted() {
  local word space="" quote="'"
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then
      word="$quote${word//$quote/$quote\\$quote$quote}$quote"
    fi
    printf '%s%s' "$space" "$word"
    space=" "
  done
}

said() {
  sed 's/^/  gcloud: /' "$folder/said" >&2
}

# What the commands that delete need, for the one shown to the user.
how_to_delete() {
  quoted "$0" delete --name "$name" --zone "$zone" ${project:+--project "$project"} ${queued:+--queued}
}

billed() {
  if [[ -n $slice_may_exist ]]; then
    echo "The slice $name may exist and is billed until it is deleted: $(how_to_delete)" >&2
  fi
}

give_up() {
  billed
  fail "$@"
}

# The field $2 of the slice's node (tpu-vm) or request (queued-resources), NONE where there is none. Their states:
# https://cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.nodes and https://cloud.google.com/tpu/docs/queued-resources
described() {
  local state
  if state="$(tpus "$1" describe "$name" --format="value($2)")"; then
    echo "${state:-DRY}"
  elif grep -qiE 'not_found|not found' "$folder/said"; then
    echo NONE
  else
    echo UNKNOWN
  fi
}

node_state() {
  described tpu-vm state
}

delete_slice() {
  if [[ -n $queued ]]; then
    tpus queued-resources delete "$name" --force --quiet
  else
    tpus tpu-vm delete "$name" --quiet
  fi
}

# Deletes what is left of a slice, also where there is nothing any more.
clear_slice() {
  delete_slice || grep -qiE 'not_found|not found' "$folder/said" || {
    said
    give_up "the old slice $name could not be deleted."
  }
}

# Sorts a refusal in $1 into capacity (comes back by itself), quota (does not) and other.
refusal() {
  if grep -qiE 'quota' "$1"; then
    echo quota
  elif grep -qiE 'no more capacity|insufficient (reserved )?capacity|not enough (available )?(resources|capacity)|stockout|RESOURCE_POOL_EXHAUSTED|currently unavailable|resource_exhausted' "$1"; then
    echo capacity
  else
    echo other
  fi
}

refuse() {
  said
  case "$(refusal "$folder/said")" in
    quota) fail "the project has no quota for $type in $zone${spot:+ (spot)}: ask for it at https://cloud.google.com/tpu/docs/quota, or take another type, zone or --spot." ;;
    capacity) fail "$zone has no free $type${spot:+ (spot)}: try later, in another zone, or with --queued, which waits in Google's queue." ;;
    *) give_up "the slice $name could not be created; see what gcloud says above." ;;
  esac
}

create_node() {
  local try seconds="$poll_seconds"
  for ((try = 1; ; try++)); do
    if tpus tpu-vm create "$name" --accelerator-type="$type" --version="$version" ${spot:+--spot}; then
      return
    fi
    if [[ $try -ge $capacity_tries || "$(refusal "$folder/said")" != capacity ]]; then
      refuse
    fi
    echo "no $type is free in $zone; trying again in $seconds seconds ($try of $capacity_tries)"
    clear_slice # a creation that failed half-way would be in the way
    sleep "$seconds"
    seconds=$((seconds * 2 > 600 ? 600 : seconds * 2))
  done
}

# Waits for the request of this name, which it makes unless there is one that still waits.
create_queued() {
  local before="" state
  state="$(described queued-resources state.state)"
  while true; do
    case "$state" in
      ACTIVE) return ;;
      NONE | DRY)
        tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$type" --runtime-version="$version" \
          ${spot:+--spot} ${wait_limit:+"--valid-until-duration=$wait_limit"} || refuse
        ;;
      SUSPENDING | SUSPENDED) clear_slice ;;
      FAILED) refuse_queued ;;
    esac
    if [[ $state != "$before" && $state != NONE ]]; then
      echo "the request for $name is $state"
    fi
    before="$state"
    [[ $state == NONE ]] || sleep "$poll_seconds"
    state="$(described queued-resources state.state)"
    [[ -z $dry_run ]] || return 0
  done
}

refuse_queued() {
  tpus queued-resources describe "$name" >"$folder/why" || true
  clear_slice # a request that failed stays, and its name with it
  mv "$folder/why" "$folder/said"
  refuse
}

# Leaves a READY slice, or ends this script. Sets fresh=yes where it made the slice.
ensure_slice() {
  local state tries
  fresh=""
  for ((tries = 1; ; tries++)); do
    state="$(node_state)"
    if [[ $tries -gt $state_tries || ($state == UNKNOWN && $tries -gt 3) ]]; then
      said
      give_up "the slice $name is $state and does not become READY."
    fi
    case "$state" in
      READY)
        slice_may_exist=yes
        return
        ;;
      PREEMPTED | TERMINATED | STOPPED | STOPPING | SUSPENDED | HIDDEN | HIDING)
        echo "the slice $name is $state; deleting it"
        clear_slice
        ;;
      NONE | DRY)
        echo "creating the slice $name: $type in $zone${spot:+, spot}"
        fresh=yes slice_may_exist=yes
        if [[ -n $queued ]]; then
          create_queued
        else
          create_node
        fi
        [[ -z $dry_run ]] || return 0
        ;;
      *)
        sleep "$poll_seconds"
        ;;
    esac
  done
}
