"""Scripts that people start by hand tell how, and do nothing else then."""

import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
USAGE = {
    "test.sh": "launch/test.sh --all ",
    "quickstart.sh": "launch/quickstart.sh [WORKDIR] [-- TRAIN_FLAGS] ",
    "local.sh": "launch/local.sh -n 2 [--devices 4] -- train ",
    "tpu.sh": "launch/tpu.sh status|delete --name N --zone Z [--queued]",
    "gke.sh": "launch/gke.sh --name s1 --type v5e --topology 4x4 ",
    "tpu_worker.sh": "not meant to be called by hand",
}


def test_every_script_that_is_no_part_of_another_is_looked_at():
    sourced = {"environment.sh", "tpu_slice.sh"}
    assert {path.name for path in LAUNCH.glob("*.sh")} - sourced == {*USAGE}


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("name", USAGE)
def test_help_is_the_comment_that_a_script_begins_with(name, flag, tmp_path):
    """Without Python, an environment or the network, in any folder."""
    command = ["/bin/bash", str(LAUNCH / name), flag]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "/nowhere", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert USAGE[name] in done.stdout
    comment = (LAUNCH / name).read_text().split("\nset ")[0].splitlines()[1:]
    assert done.stdout.splitlines() == [line.removeprefix("#").removeprefix(" ") for line in comment]
    assert not [*tmp_path.iterdir()]
