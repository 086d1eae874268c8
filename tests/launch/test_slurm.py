"""launch/slurm.sbatch with stand-ins for srun, scancel and scontrol."""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stand_ins import write_script

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"


class Slurm:
    """A job: the script as Slurm runs it, a copy in a folder of its own."""

    def __init__(self, folder, repository, tools):
        self.folder, self.process = folder, None
        self.script = folder / "spool" / "slurm_script"
        self.script.parent.mkdir()
        shutil.copy(repository / "launch" / "slurm.sbatch", self.script)
        self.environment = {
            "PATH": str(tools),
            "JOB": str(folder),
            "SLURM_JOB_ID": "77",
            "SLURM_SUBMIT_DIR": str(repository),
            "SLURM_CPUS_PER_TASK": "12",
        }
        write_script(repository / ".venv" / "bin" / "python", "echo the environment's python")
        # srun plays $JOB/task for its one task, as whose process scancel finds it.
        write_script(
            tools / "srun",
            'printf "%s\\n" "$@" >"$JOB/srun"; pwd >"$JOB/pwd"; env >"$JOB/env"\n'
            'echo $$ >"$JOB/pid"; source "$JOB/task"',
        )
        write_script(tools / "scancel", 'echo "$*" >>"$JOB/scancel"; kill -TERM "$(cat "$JOB/pid")"')
        write_script(tools / "scontrol", 'echo "$*" >>"$JOB/scontrol"; [[ ! -e $JOB/refuse ]]')

    def begin(self, task, *words):
        (self.folder / "task").write_text(task)
        self.process = subprocess.Popen(
            ["bash", str(self.script), *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def run(self, task, *words):
        process = self.begin(task, *words)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def read(self, name):
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []

    def wait_for(self, name):
        end = time.monotonic() + 30
        while not (self.folder / name).exists():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)


@pytest.fixture
def slurm(tmp_path, repository, tools):
    slurm = Slurm(tmp_path, repository, tools)
    yield slurm
    if slurm.process:
        with slurm.process:
            slurm.process.kill()


WAIT = """
trap 'exit 75' TERM
: >"$JOB/ready"
while true; do sleep 0.02; done
"""


def test_the_run_and_its_surroundings(slurm, repository):
    code, _, err = slurm.run("command -v python >$JOB/python", "train", "--config.name=two  words", "--workdir", "w")
    assert code == 0, err
    command = slurm.read("srun")
    assert command[-6:] == ["-m", "unireplknet_jax", "train", "--config.name=two  words", "--workdir", "w"]
    assert slurm.read("pwd") == [str(repository)]
    assert slurm.read("python") == [str(repository / ".venv" / "bin" / "python")]
    assert {"UNIREPLKNET_DISTRIBUTED=auto", "SRUN_CPUS_PER_TASK=12"} <= set(slurm.read("env"))
    assert slurm.read("scontrol") == []


@pytest.mark.parametrize(("code", "requeued"), [(0, []), (1, []), (3, []), (137, []), (75, ["requeue 77"])])
def test_only_a_saved_run_is_queued_again(slurm, code, requeued):
    assert slurm.run(f"exit {code}", "train")[0] == code
    assert slurm.read("scontrol") == requeued


def test_a_job_that_cannot_be_requeued_says_so(slurm):
    (slurm.folder / "refuse").touch()
    code, _, err = slurm.run("exit 75", "train")
    assert code == 1
    assert "could not be requeued" in err


def test_usr1_reaches_the_tasks_as_term(slurm):
    process = slurm.begin(WAIT, "train")
    slurm.wait_for("ready")
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert slurm.read("scancel") == ["--signal=TERM 77"]
    assert slurm.read("scontrol") == ["requeue 77"]


def test_a_cancelled_job_does_not_come_back(slurm):
    process = slurm.begin(WAIT, "train")
    slurm.wait_for("ready")
    process.send_signal(signal.SIGTERM)
    subprocess.run(["kill", "-TERM", slurm.read("pid")[0]], check=True)  # scancel signals the tasks too
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert slurm.read("scontrol") == []


@pytest.mark.parametrize(
    ("change", "words", "part"),
    [
        ({"SLURM_JOB_ID": ""}, ["train"], "write sbatch"),
        ({}, [], "got ''"),
        ({}, ["--config", "c"], "got '--config c'"),
        ({"VIRTUAL_ENV": "/nowhere"}, ["train"], "no Python environment in /nowhere"),
        ({"SLURM_SUBMIT_DIR": "/nowhere"}, ["train"], "/nowhere"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(slurm, change, words, part):
    slurm.environment.update(change)
    code, _, err = slurm.run("", *words)
    assert code == 1
    assert part in err.splitlines()[-1]
    assert slurm.read("srun") == []


def test_options_of_the_job():
    text = (LAUNCH / "slurm.sbatch").read_text()
    first = next(i for i, line in enumerate(text.splitlines()) if line and not line.startswith("#"))
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.MULTILINE))
    # sbatch reads no further than the first command.
    assert max(i for i, line in enumerate(text.splitlines()) if line.startswith("#SBATCH")) < first
    assert options["signal"].startswith("TERM@")  # not B:TERM, which only the script itself would get
    assert options["gres"] == f"gpu:{options['ntasks-per-node']}"
    assert "gpus-per-task" not in options
    assert "requeue" in options


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:/usr/bin:/usr/local/bin")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    files = [*map(str, sorted(LAUNCH.glob("*.sh"))), str(LAUNCH / "slurm.sbatch")]
    done = subprocess.run([shellcheck, "--external-sources", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
