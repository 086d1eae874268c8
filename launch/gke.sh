#!/usr/bin/env bash
# Writes the manifest of a training run on TPU slices of a GKE cluster, a JobSet, for `kubectl apply -f`.
#   launch/gke.sh --name s1 --type v5e --topology 4x4 --image REGION-docker.pkg.dev/P/R/unireplknet:1 [OPTIONS] -- \
#     train --config imagenet1k.py:s --workdir gs://B/s1
# Options: --slices N (1); --spot: cheaper, may be taken away; --chips N: on a machine, if not 4; --queue NAME: of Kueue;
# --bucket gs://B[/FOLDER]: data, read-only at /mnt/data, and --cache-mb M of disk for it; --service-account NAME: of
# Kubernetes, with access to the buckets; --max-restarts K (20); --xpk: print the line for xpk that asks for the same.
# The image is that of the Dockerfile, built with JAX="jax[tpu]". See docs/launch.md.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
help_if_asked "$@"

again=75 # what the train command returns once it has saved its state
killed="134, 137, 143" # by its own library when a peer is gone, for memory or by the node, and by TERM
mount_point=/mnt/data
name="" type="" topology="" image="" slices=1 spot="" chips="" queue="" bucket="" cache_mb="" service_account=""
max_restarts=20 xpk=""

parse() {
  while [[ $# -gt 0 && $1 != -- ]]; do
    case "$1" in
      --spot) spot=yes ;;
      --xpk) xpk=yes ;;
      --name | --type | --topology | --image | --slices | --chips | --queue | --bucket | --cache-mb | --service-account | --max-restarts)
        [[ -n ${2:-} && $2 != -- ]] || fail "$1 needs a value."
        local option="${1#--}"
        printf -v "${option//-/_}" '%s' "$2"
        shift
        ;;
      *) fail "unknown option '$1'; what follows -- is for the run." ;;
    esac
    shift
  done
  shift || true
  arguments=("$@")
}

check() {
  local number word workdir=""
  [[ $name =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
    fail "--name is '${name}'; expected up to 40 small letters, digits and -, for example --name s1."
  [[ $topology =~ ^[0-9]+x[0-9]+(x[0-9]+)?$ ]] ||
    fail "--topology is '${topology}'; expected chips in two or three directions, for example --topology 4x4."
  [[ -n $image ]] || fail "--image is missing: that of the Dockerfile, built with JAX=\"jax[tpu]\" and pushed to a registry."
  for number in slices max_restarts ${chips:+chips} ${cache_mb:+cache_mb}; do
    [[ ${!number} =~ ^[0-9]+$ ]] || fail "--${number//_/-} is '${!number}'; expected a number."
  done
  [[ -z $bucket || $bucket == gs://?* ]] || fail "--bucket is '$bucket'; expected an address such as gs://my-bucket/imagenet."
  [[ ${arguments[0]:-} == train ]] || fail "write the run after --, for example -- train --config imagenet1k.py:s --workdir gs://B/s1."
  for ((word = 1; word < ${#arguments[@]}; word++)); do
    case "${arguments[word]}" in
      --workdir) workdir="${arguments[word + 1]:-}" ;;
      --workdir=*) workdir="${arguments[word]#--workdir=}" ;;
    esac
  done
  [[ $workdir =~ ^gs://[^/] ]] || fail "--workdir of the run is ${workdir:-missing}; expected a bucket, since the disks of a slice go with it."
}

# Of https://cloud.google.com/kubernetes-engine/docs/concepts/tpus: the label of a type's nodes, and its name for xpk, in
# which v4 and v5p count two cores for a chip.
choose_type() {
  all_chips=$((${topology//x/*}))
  case "$type" in
    v4) accelerator=tpu-v4-podslice xpk_type="v4-$((2 * all_chips))" ;;
    v5e) accelerator=tpu-v5-lite-podslice xpk_type="v5litepod-$all_chips" ;;
    v5p) accelerator=tpu-v5p-slice xpk_type="v5p-$((2 * all_chips))" ;;
    v6e) accelerator=tpu-v6e-slice xpk_type="v6e-$all_chips" ;;
    *) fail "--type is '$type'; expected v4, v5e, v5p or v6e." ;;
  esac
  chips="${chips:-$((all_chips < 4 ? all_chips : 4))}"
  [[ $chips -gt 0 && $((all_chips % chips)) -eq 0 ]] || fail "--chips $chips does not divide the $all_chips chips of $topology."
  machines=$((all_chips / chips))
}

# A text in quotes, as YAML and JSON have it.
text() {
  local word="$1"
  word="${word//\\/\\\\}"
  word="${word//\"/\\\"}"
  word="${word//$'\n'/\\n}"
  printf '"%s"' "${word//$'\t'/\\t}"
}

words() {
  local word separator=""
  for word in "$@"; do
    printf '%s%s' "$separator" "$(text "$word")"
    separator=", "
  done
}

# What lies in the bucket, mounted by https://cloud.google.com/kubernetes-engine/docs/how-to/cloud-storage-fuse-csi-driver-ephemeral
volume() {
  local path="${bucket#gs://}" options="implicit-dirs,metadata-cache:ttl-secs:-1"
  if [[ $path == */?* ]]; then
    options+=",only-dir=$(dirname "${path#*/}/.")"
  fi
  if [[ -n $cache_mb ]]; then
    options+=",file-cache:max-size-mb:$cache_mb,file-cache:cache-file-for-range-read:true"
  fi
  cat <<MANIFEST
              volumes:
                - name: data
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    readOnly: true
                    volumeAttributes:
                      bucketName: $(text "${path%%/*}")
                      mountOptions: $(text "$options")
MANIFEST
}

# A job for each slice, a pod for each of its machines. All start again together where one was taken away or said 75;
# any other code is an error that a second try would meet again, and ends the run.
manifest() {
  cat <<MANIFEST
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
${queue:+  labels:
    kueue.x-k8s.io/queue-name: $(text "$queue")
}spec:
  failurePolicy:
    maxRestarts: $max_restarts
    rules:
      - name: failed
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: $slices
      template:
        spec:
          parallelism: $machines
          completions: $machines
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: Count
                onPodConditions:
                  - type: DisruptionTarget
                    status: "True"
              - action: FailJob
                onExitCodes:
                  containerName: train
                  operator: NotIn
                  values: [$again, $killed]
          template:
${bucket:+            metadata:
              annotations:
                gke-gcsfuse/volumes: $(text true)
}            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 180
${service_account:+              serviceAccountName: $(text "$service_account")
}              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $accelerator
                cloud.google.com/gke-tpu-topology: $topology
${spot:+                cloud.google.com/gke-spot: $(text true)
}              containers:
                - name: train
                  image: $(text "$image")
                  args: [$(words "${arguments[@]}")]
                  env:
                    - {name: UNIREPLKNET_DISTRIBUTED, value: auto}
                    - {name: PYTHONUNBUFFERED, value: "1"}
                  ports:
                    - containerPort: 8471
                    - containerPort: 8476
                  resources:
                    limits:
                      google.com/tpu: $chips
${bucket:+                  volumeMounts:
                    - name: data
                      mountPath: $mount_point
                      readOnly: true
$(volume)}
MANIFEST
}

xpk_line() {
  printf 'xpk workload create --cluster CLUSTER --workload %s --tpu-type=%s --num-slices=%s' "$name" "$xpk_type" "$slices"
  printf ' --docker-image %q --max-restarts %s --restart-on-exit-codes %s' "$image" "$max_restarts" "$again"
  printf ' --command %q\n' "UNIREPLKNET_DISTRIBUTED=auto unireplknet $(printf '%q ' "${arguments[@]}")"
}

parse "$@"
check
choose_type
if [[ -n $xpk ]]; then
  xpk_line
else
  manifest
fi
