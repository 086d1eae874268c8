"""launch/gke.sh, sky.yaml, kserve.yaml, Dockerfile: what JobSet, SkyPilot and KServe read; no cluster is asked."""

import shlex
import subprocess
import tomllib

import pytest
import yaml
from pages import ROOT

from unireplknet_jax.cli.parser import parse

NEEDED = ("--name", "s1", "--type", "v5e", "--topology", "4x4", "--image", "registry/unireplknet:1")
TRAIN = ("train", "--config", "imagenet1k.py:s", "--workdir", "gs://B/s1")
# The fields of JobSet v1alpha2 that are used here, after https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2/
JOBSET = {
    "failurePolicy": {"maxRestarts": int, "rules": [{"name": str, "action": str, "onJobFailureReasons": [str]}]},
    "replicatedJobs": [{"name": str, "replicas": int, "template": dict}],
}
GPU = "nvidia.com/gpu"
# The fields of a task, after https://docs.skypilot.co/en/latest/reference/yaml-spec.html
TASK = {
    **{"name": str, "num_nodes": int, "workdir": str, "setup": str, "run": str},
    "resources": {
        **{"accelerators": str, "use_spot": bool},
        "job_recovery": {"max_restarts_on_errors": int, "recover_on_exit_codes": [int]},
    },
}

# The fields of an InferenceService, after https://kserve.github.io/website/docs/reference/crd-api
PREDICTOR = {
    **{"minReplicas": int, "containers": [dict]},
    "model": {
        **{"modelFormat": {"name": str}, "protocolVersion": str, "runtime": str, "storageUri": str},
        "resources": {"requests": {"cpu": str, "memory": str}, "limits": {"cpu": str, "memory": str, GPU: str}},
    },
}


def write(*options, run=TRAIN):
    """(exit code, what is printed, what is said of errors)."""
    words = ["bash", ROOT / "launch/gke.sh", *(options or NEEDED), "--", *run]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def manifest(*options, run=TRAIN):
    code, printed, said = write(*NEEDED, *options, run=run)
    assert code == 0, said
    return yaml.safe_load(printed)


def pod(found):
    return found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]


def misfits(value, schema, path=""):
    """Where a document has other fields or types than a schema has."""
    if isinstance(schema, dict):
        wrong = [f"{path}.{name}" for name in value if name not in schema]
        return wrong + [
            each for name in schema if name in value for each in misfits(value[name], schema[name], f"{path}.{name}")
        ]
    if isinstance(schema, list):
        return [each for item in value for each in misfits(item, schema[0], f"{path}[]")]
    return [] if type(value) is schema else [f"{path}: {type(value).__name__}"]


WAYS = {
    "plain": (),
    "all": (
        *("--spot", "--queue", "team", "--slices", "2", "--service-account", "trainer", "--max-restarts", "3"),
        *("--bucket", "gs://data/imagenet/train/", "--cache-mb", "1000"),
    ),
}


@pytest.mark.parametrize("way", [*WAYS])
def test_a_manifest_is_a_jobset_around_a_job_of_kubernetes(way):
    found = manifest(*WAYS[way])
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert misfits(found["spec"], JOBSET) == []
    (rule,) = found["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate").validate
    (replicated,) = found["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "s1-slice-0"}, **replicated["template"]}
    validate(job, "1.31", strict=True)


def test_a_pod_for_each_machine_starts_again_after_75_alone():
    job = manifest()["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["completionMode"], job["backoffLimit"]) == (4, 4, "Indexed", 0)
    count, fail = job["podFailurePolicy"]["rules"]
    assert (count["action"], count["onPodConditions"][0]["type"]) == ("Count", "DisruptionTarget")
    assert (fail["action"], fail["onExitCodes"]["operator"]) == ("FailJob", "NotIn")
    assert 75 in fail["onExitCodes"]["values"]
    assert 1 not in fail["onExitCodes"]["values"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["name"] == fail["onExitCodes"]["containerName"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # which a podFailurePolicy needs


def test_what_is_asked_for_is_in_the_manifest():
    found = manifest(*WAYS["all"])
    assert found["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team"}
    assert found["spec"]["failurePolicy"]["maxRestarts"] == 3
    assert found["spec"]["replicatedJobs"][0]["replicas"] == 2
    spec = pod(found)["spec"]
    assert spec["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    assert spec["serviceAccountName"] == "trainer"
    assert pod(found)["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    (volume,), (container,) = spec["volumes"], spec["containers"]
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "data"
    options = volume["csi"]["volumeAttributes"]["mountOptions"].split(",")
    assert {"only-dir=imagenet/train", "file-cache:max-size-mb:1000"} <= {*options}
    assert container["volumeMounts"] == [{"name": "data", "mountPath": "/mnt/data", "readOnly": True}]
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert {"name": "UNIREPLKNET_DISTRIBUTED", "value": "auto"} in container["env"]
    plain = manifest()
    assert "volumes" not in pod(plain)["spec"]
    assert "metadata" not in pod(plain)
    assert "labels" not in plain["metadata"]


@pytest.mark.parametrize(
    ("options", "machines", "chips", "node"),
    [
        (("--topology", "2x2"), 1, 4, "tpu-v5-lite-podslice"),
        (("--topology", "1x1"), 1, 1, "tpu-v5-lite-podslice"),
        (("--topology", "2x4", "--chips", "8"), 1, 8, "tpu-v5-lite-podslice"),
        (("--type", "v5p", "--topology", "2x2x4"), 4, 4, "tpu-v5p-slice"),
        (("--type", "v6e", "--topology", "16x16"), 64, 4, "tpu-v6e-slice"),
    ],
)
def test_machines_follow_from_the_topology(options, machines, chips, node):
    found = manifest(*options)
    assert found["spec"]["replicatedJobs"][0]["template"]["spec"]["parallelism"] == machines
    assert pod(found)["spec"]["containers"][0]["resources"]["limits"]["google.com/tpu"] == chips
    assert pod(found)["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == node


def test_arguments_arrive_as_they_were_written():
    run = (*TRAIN, "--config.name=two words", "--config.a='$HOME' \"x\" `ls` \\ * ;", "--config.b=one\ntwo\tthree", "")
    assert pod(manifest(run=run))["spec"]["containers"][0]["args"] == [*run]


def test_the_line_for_xpk_asks_for_the_same():
    code, printed, _ = write(*NEEDED, "--slices", "2", "--xpk", run=(*TRAIN, "--config.name=two words"))
    assert code == 0
    words = shlex.split(printed)
    assert words[:3] == ["xpk", "workload", "create"]
    assert {"--tpu-type=v5litepod-16", "--num-slices=2", "registry/unireplknet:1", "75"} <= {*words}
    command = shlex.split(words[words.index("--command") + 1])
    assert command == ["UNIREPLKNET_DISTRIBUTED=auto", "unireplknet", *TRAIN, "--config.name=two words"]


@pytest.mark.parametrize(
    ("options", "run", "said"),
    [
        (NEEDED[2:], TRAIN, "--name is ''; expected up to 40 small letters, digits and -"),
        ((*NEEDED, "--name", "S 1"), TRAIN, "--name is 'S 1'; expected"),
        ((*NEEDED, "--type", "v9"), TRAIN, "--type is 'v9'; expected v4, v5e, v5p or v6e."),
        ((*NEEDED, "--topology", "16"), TRAIN, "--topology is '16'; expected chips in two or three directions"),
        ((*NEEDED, "--chips", "3"), TRAIN, "--chips 3 does not divide the 16 chips of 4x4."),
        ((*NEEDED, "--slices", "two"), TRAIN, "--slices is 'two'; expected a number."),
        ((*NEEDED, "--bucket", "data"), TRAIN, "--bucket is 'data'; expected an address"),
        (NEEDED[:-2], TRAIN, "--image is missing"),
        ((*NEEDED, "--zone", "z"), TRAIN, "unknown option '--zone'; what follows -- is for the run."),
        ((*NEEDED, "--queue"), TRAIN, "--queue needs a value."),
        (NEEDED, ("evaluate", "x"), "write the run after --, for example"),
        (NEEDED, TRAIN[:3], "--workdir of the run is missing; expected a bucket"),
        (NEEDED, (*TRAIN[:3], "--workdir", "runs/s"), "--workdir of the run is runs/s; expected a bucket"),
    ],
)
def test_what_is_wrong_is_one_sentence(options, run, said):
    code, printed, error = write(*options, run=run)
    assert (code, printed) == (1, "")
    assert error.startswith(f"error: {said}")


def test_the_task_of_skypilot_goes_on_after_75_and_runs_a_command_that_there_is():
    task = yaml.safe_load((ROOT / "launch/sky.yaml").read_text())
    rest = {name: task.pop(name) for name in ("envs", "file_mounts")}
    assert misfits(task, TASK) == []
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    assert rest["envs"]["DATA"] in rest["file_mounts"]
    for script in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    line = task["run"].strip().splitlines()[-1]
    for name, value in rest["envs"].items():
        line = line.replace(f"${name}", value)
    words = shlex.split(line)
    args = parse(words[words.index("train") :])
    assert (args.config, args.workdir) == ("imagenet1k.py:s", "gs://my-runs/s")


def test_the_image_installs_extras_that_there_are_and_serves_by_default():
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    known = {"FROM", "ARG", "COPY", "RUN", "ENV", "USER", "WORKDIR", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {step for step, _ in steps} <= known
    install = next(words for step, words in steps if step == "RUN" and "pip install" in words)
    extras = install.partition("/source[")[2].partition("]")[0].split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "serve" in extras
    assert {*extras} <= {*project["optional-dependencies"]}
    entry, command = (yaml.safe_load(words) for step, words in steps if step in ("ENTRYPOINT", "CMD"))
    assert entry == ["unireplknet"]
    assert parse(command).command == "serve"
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    assert {"pyproject.toml", "requirements.txt", "README.md", "LICENSE", "configs", "unireplknet_jax"} <= kept


def test_kserve_gets_the_image_or_what_was_exported_for_triton():
    served, triton = yaml.safe_load_all((ROOT / "launch/kserve.yaml").read_text())
    for found in (served, triton):
        assert (found["apiVersion"], found["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
        assert misfits(found["spec"], {"predictor": PREDICTOR}) == []
    (container,) = served["spec"]["predictor"]["containers"]
    args = parse(container["args"])
    (port,) = container["ports"]
    assert (args.host, args.port) == ("0.0.0.0", port["containerPort"])
    assert args.checkpoints == ["flowers=/mnt/models"]  # where KServe puts what STORAGE_URI names
    assert [each["name"] for each in container["env"]] == ["STORAGE_URI"]
    probe = container["readinessProbe"]["httpGet"]
    assert (probe["path"], probe["port"]) == ("/v2/health/ready", port["containerPort"])
    model = triton["spec"]["predictor"]["model"]
    assert (model["modelFormat"]["name"], model["protocolVersion"]) == ("onnx", "v2")
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate").validate
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [container]}}
    validate(pod, "1.31", strict=True)
