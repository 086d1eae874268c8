"""The launch scripts in a made-up world: a copy of them, a PATH without anything else, stand-ins for what they call."""

import shutil
import subprocess
from pathlib import Path

import pytest
from cloud import Cloud

ROOT = Path(__file__).parents[2]
TOOLS = """
awk bash cat chmod chown cksum cp date dirname env git grep gzip head id kill ls mkdir mkfifo mktemp mv ps rm sed setsid
sleep sort tail tar tr wc
"""


@pytest.fixture
def tools(tmp_path):
    """A folder for PATH with the usual tools alone: neither gcloud nor srun nor anything else of this machine."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in TOOLS.split():
        where = shutil.which(name)
        if where is None:
            pytest.skip(f"{name} is not on this machine")
        (folder / name).symlink_to(where)
    return folder


@pytest.fixture
def repository(tmp_path):
    """A git checkout of launch/ and a few other files."""
    folder = tmp_path / "a repository"
    (folder / "configs").mkdir(parents=True)
    shutil.copytree(ROOT / "launch", folder / "launch")
    (folder / "configs" / "recipe.py").write_text("recipe")
    (folder / ".gitignore").write_text("*.ignored\n")
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    subprocess.run(["git", "-C", folder, "add", "."], check=True)
    (folder / "not added.py").write_text("new")
    (folder / "big.ignored").write_text("data")
    return folder


@pytest.fixture
def cloud(tmp_path, repository, tools):
    folder = tmp_path / "cloud"
    folder.mkdir()
    cloud = Cloud(folder, repository, tools)
    yield cloud
    cloud.end()
