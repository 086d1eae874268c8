"""The launch/tpu.sh of a test: its repository, its stand-in gcloud, and the folder with that one's machines."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from stand_ins import write_script

# python3 on a machine: makes environments and installs nothing; the package notes its arguments and plays $CLOUD/train.
PYTHON = """
case "$*" in
  "-c import sys"*) echo 3.12 ;;
  "-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip"*) printf '%s\\n' "$*" >>"$CLOUD/pip.$WORKER" ;;
  "-m unireplknet_jax"*)
    shift 2
    ATTEMPT=1
    while [[ -e $CLOUD/args.$WORKER.$ATTEMPT ]]; do ATTEMPT=$((ATTEMPT + 1)); done
    printf '%s\\0' "$UNIREPLKNET_DISTRIBUTED" "$@" >"$CLOUD/args.$WORKER.$ATTEMPT"
    source "$CLOUD/train"
    ;;
esac
"""
TRAIN = ["train", "--config", "configs/recipe.py:s", "--workdir", "gs://b/run"]
READS = ["--config.data.dir=/mnt/data"]  # the bucket
PLACE = ["--name", "n", "--zone", "z"]


class Cloud:
    """The folder $CLOUD, and tpu.sh with it."""

    def __init__(self, folder, repository, tools):
        self.folder, self.repository, self.tools, self.process = folder, repository, tools, None
        self.environment = {"CLOUD": str(folder), "PATH": str(tools), "UNIREPLKNET_POLL": "0", "HOME": str(folder)}
        script = repository / "launch" / "tpu.sh"
        assert "\npatience=20 " in script.read_text()
        script.write_text(script.read_text().replace("\npatience=20 ", "\npatience=4 "))
        self.write("state.json", node=None, request=None, polls=0, creations=0)
        self.plan()
        self.train("exit 0")
        write_script(folder / "machine" / "python3", PYTHON)
        write_script(folder / "machine" / "curl", 'echo "$WORKER"')
        write_script(folder / "machine" / "sudo", '"$@"')
        write_script(folder / "machine" / "mountpoint", "exit 1")
        write_script(folder / "machine" / "gcsfuse", 'printf "%s\\n" "$@" >"$CLOUD/gcsfuse.$WORKER"')
        write_script(tools / "gcloud", f'exec {sys.executable} -I -S {Path(__file__).parent / "gcloud.py"} "$@"')

    def write(self, name, **values):
        (self.folder / name).write_text(json.dumps(values))

    def plan(self, **changes):
        self.write("plan.json", **{"workers": 2, "create": [], "queue": [], "events": {}, **changes})

    def train(self, text):
        """What the train command does on a machine; it sees WORKER and ATTEMPT."""
        (self.folder / "train").write_text(text)

    def command(self, *words):
        return ["bash", str(self.repository / "launch" / "tpu.sh"), *words]

    def run(self, *words, **options):
        return subprocess.run(
            self.command(*words), env=self.environment, capture_output=True, text=True, timeout=60, **options
        )

    def run_training(self, *options, arguments=TRAIN):
        return self.run("run", *PLACE, "--type", "v5litepod-16", *options, "--", *arguments)

    def begin(self, *options):
        """As run_training, but goes on; the fixture ends it."""
        words = self.command("run", *PLACE, "--type", "v5litepod-16", *options, "--", *TRAIN)
        self.process = subprocess.Popen(
            words, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return self.process

    @property
    def state(self):
        return json.loads((self.folder / "state.json").read_text())

    @property
    def calls(self):
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def verbs(self, *without):
        """The calls as "tpu-vm create" and the like, one of those that follow each other."""
        found = []
        for call in self.calls:
            name = " ".join(call[3:5])
            if name.split()[1] not in without and (not found or found[-1] != name):
                found.append(name)
        return found

    def started(self, worker):
        return sorted(self.folder.glob(f"args.{worker}.*"))

    def arguments(self, worker, attempt=1):
        return (self.folder / f"args.{worker}.{attempt}").read_text().split("\0")[:-1]

    def running(self):
        """The machines on which a process of the run is alive."""
        found = []
        for file in sorted(self.folder.glob("w*/unireplknet_run/pid")):
            words = ["ps", "-o", "stat=", "-p", file.read_text().strip()]
            state = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
            if state and not state.startswith("Z"):  # one that ended stays, where nobody asks for its code
                found.append(int(file.parts[-3][1:]))
        return found

    def wait_for(self, condition):
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)

    def end(self):
        """End what still runs here and on the machines."""
        if self.process:
            with self.process:
                self.process.kill()
        for file in self.folder.glob("w*/unireplknet_run/pid"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(file.read_text()), signal.SIGKILL)


def check_error(done, *parts, code=1):
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert all(part in errors[0] for part in parts), errors[0]
