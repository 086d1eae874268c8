"""launch/local.sh: several processes on one machine, ended together."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stand_ins import write_script

# python: answers the question for a free port; as the package it plays $PLAY, a bash script.
PYTHON = """
if [[ $1 == -c ]]; then echo 12345; exit; fi
[[ $1 == -m && $2 == unireplknet_jax ]] || exit 99
shift 2
echo $$ >>"$PIDS"
source "$PLAY"
"""


class Local:
    """local.sh with a stand-in for python."""

    def __init__(self, folder, repository, tools):
        self.folder, self.script = folder, repository / "launch" / "local.sh"
        self.pids, self.process = folder / "pids", None
        self.environment = {
            "PATH": str(tools),
            "VIRTUAL_ENV": str(folder / "venv"),
            "PIDS": str(self.pids),
            "PLAY": str(folder / "play"),
            "UNIREPLKNET_GRACE": "1",
        }
        write_script(folder / "venv" / "bin" / "python", PYTHON)

    def begin(self, play, *words, **environment):
        (self.folder / "play").write_text(play)
        self.process = subprocess.Popen(
            # The TPU compiler, loaded by another test of this process, ignores HUP, and what is started inherits that.
            ["/usr/bin/env", "--default-signal=HUP", "bash", str(self.script), *words],
            env={**self.environment, **environment},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def run(self, play, *words, **environment):
        """(code, output, what is said on stderr)"""
        process = self.begin(play, *words, **environment)
        out, err = self.end()
        return process.returncode, out, err

    def end(self):
        """(output, what is said on stderr) of the run once it has ended and left no process."""
        try:
            out, err = self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            table = subprocess.run(["ps", "-ef"], capture_output=True, text=True, check=False).stdout
            pytest.fail(f"process {self.process.pid} does not end; these run:\n{table}")
        assert self.alive() == []
        return out, err

    def alive(self):
        """The processes started that have not ended."""
        pids = self.pids.read_text().split() if self.pids.exists() else []
        found = []
        for pid in pids:
            words = ["ps", "-o", "stat=", "-p", pid]
            state = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
            if state and not state.startswith("Z"):
                found.append(int(pid))
        return found

    def wait_for(self, file):
        end = time.monotonic() + 30
        while not file.exists():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)


@pytest.fixture
def local(tmp_path, repository, tools):
    local = Local(tmp_path, repository, tools)
    yield local
    with local.process or subprocess.Popen(["true"]) as process:
        process.kill()
    for pid in local.alive():
        os.kill(pid, signal.SIGKILL)


def test_each_process_knows_its_place(local):
    names = ("COORDINATOR", "PROCESSES", "PROCESS")
    play = "; ".join(f"echo {name}=$UNIREPLKNET_{name}" for name in names) + '; printf "%s|" "$@"'
    code, out, _ = local.run(play, "-n", "2", "--", "train", "--config.name=two  words", "")
    assert code == 0
    lines = [[line[4:] for line in out.splitlines() if line.startswith(f"[{number}] ")] for number in range(2)]
    for number in range(2):
        assert lines[number] == [
            "COORDINATOR=127.0.0.1:12345",
            "PROCESSES=2",
            f"PROCESS={number}",
            "train|--config.name=two  words||",
        ]


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [
        (["--devices", "4"], {}, "4,cpu,"),
        (["--devices", "4"], {"JAX_PLATFORMS": "cuda,cpu"}, "4,cuda,cpu,"),
        ([], {"JAX_PLATFORMS": "cpu"}, ",cpu,"),
        ([], {}, ",,1"),
    ],
)
def test_devices_of_a_process(local, words, environment, expected):
    play = "[[ $UNIREPLKNET_PROCESS == 0 ]] || echo $JAX_NUM_CPU_DEVICES,$JAX_PLATFORMS,$JAX_LOCAL_DEVICE_IDS"
    _, out, _ = local.run(play, "-n", "2", *words, "--", "train", **environment)
    assert out == f"[1] {expected}\n"


def test_a_failure_ends_the_others_and_is_the_answer(local):
    # Process 0 hears nothing, as one that waits for the others in a collective; its helper would live on.
    play = """
if [[ $UNIREPLKNET_PROCESS == 1 ]]; then
  while [[ ! -e $PIDS.ready ]]; do sleep 0.02; done
  exit 3
fi
trap "" TERM
sleep 60 &
echo $! >>"$PIDS"
: >"$PIDS.ready"
while true; do sleep 1; done
"""
    code, _, err = local.run(play, "-n", "2", "--", "train")
    assert code == 3
    assert err.splitlines() == ["a process ended with code 3; ending the others"]


def test_the_first_failure_is_the_cause_and_the_others_are_told(local):
    play = """
trap 'echo told; exit 7' TERM
if [[ $UNIREPLKNET_PROCESS == 0 ]]; then
  while [[ ! -e $PIDS.1 || ! -e $PIDS.2 ]]; do sleep 0.02; done
  exit 3
fi
: >"$PIDS.$UNIREPLKNET_PROCESS"
while true; do sleep 0.02; done
"""
    code, out, _ = local.run(play, "-n", "3", "--", "train")
    assert (code, sorted(out.splitlines())) == (3, ["[1] told", "[2] told"])


def test_saved_runs_say_so(local):
    play = "[[ $UNIREPLKNET_PROCESS == 0 ]] || sleep 0.5; exit 75"
    code, _, err = local.run(play, "-n", "2", "--", "train")
    assert (code, err) == (75, "")


def test_a_failure_weighs_more_than_saved(local):
    play = "[[ $UNIREPLKNET_PROCESS == 0 ]] && exit 75; sleep 0.5; exit 1"
    assert local.run(play, "-n", "2", "--", "train")[0] == 1


def test_a_process_that_hangs_after_the_others_saved_is_ended(local):
    play = '[[ $UNIREPLKNET_PROCESS == 0 ]] && exit 75; trap "" TERM; while true; do sleep 1; done'
    assert local.run(play, "-n", "2", "--", "train")[0] == 75


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)])
def test_signals_reach_every_process(local, number, code):
    play = """
trap 'echo saved; exit 75' TERM
trap 'exit 130' INT
: >"$PIDS.$UNIREPLKNET_PROCESS"
while true; do sleep 0.02; done
"""
    process = local.begin(play, "-n", "2", "--", "train")
    for each in range(2):
        local.wait_for(Path(f"{local.pids}.{each}"))
    process.send_signal(number)
    out, _ = local.end()
    assert process.returncode == code
    assert sorted(out.splitlines()) == (["[0] saved", "[1] saved"] if code == 75 else [])


def test_no_process_is_left_where_the_script_itself_fails(local):
    process = local.begin("while true; do sleep 1; done", "-n", "2", "--", "train", UNIREPLKNET_GRACE="x")
    process.send_signal(signal.SIGTERM)
    local.end()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "-n, the number of processes, is missing"),
        (["-n"], "-n takes a positive number and got ''"),
        (["-n", "0", "--", "train"], "got '0'"),
        (["-n", "2", "--devices", "x", "--", "train"], "--devices takes a positive number and got 'x'"),
        (["-n", "2"], "nothing to run"),
        (["-n", "2", "--"], "nothing to run"),
        (["-n", "2", "train"], "unexpected argument 'train'"),
    ],
)
def test_wrong_usage_is_one_sentence(local, words, part):
    code, out, err = local.run("", *words)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert part in err


@pytest.mark.slow
def test_two_real_processes_add_over_all_their_devices(local, tmp_path):
    package = tmp_path / "path" / "unireplknet_jax"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        """
import os, jax, jax.numpy as jnp
e = os.environ
jax.distributed.initialize(
    e["UNIREPLKNET_COORDINATOR"], int(e["UNIREPLKNET_PROCESSES"]), int(e["UNIREPLKNET_PROCESS"])
)
mesh = jax.make_mesh((6,), ("data",))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
x = jax.make_array_from_callback((6,), sharding, lambda index: jnp.arange(6.0)[index])
total = float(jax.jit(jnp.sum)(x))
print(f"\\nsum {total} of {jax.local_device_count()} here and {jax.device_count()}\\n", end="")
"""
    )
    write_script(tmp_path / "venv" / "bin" / "python", f'exec {sys.executable} "$@"')
    process = local.begin("", "-n", "2", "--devices", "3", "--", "train", PYTHONPATH=str(package.parent))
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    assert re.findall(r"\[(\d)\] sum 15.0 of 3 here and 6", out) in (["0", "1"], ["1", "0"])
