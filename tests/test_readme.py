"""README.md is short, and its blocks run as they stand: with stand-ins for the files that a reader would have."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import PAGES, README, ROOT, split_page
from plugins import need_cuda

from unireplknet_jax.models import zoo
from unireplknet_jax.tasks.made_up import write

WEIGHTS = "unireplknet_a_in1k_224_acc77.03.pth"
STAND_INS = {  # small ones of tests/goldens/dense for weights that the authors published
    "seg_tiny.pth": "upernet_unireplknet_t_512_160k_ade20k_miou48.56.pth",
    "det_tiny.pth": "casc_mask_rcnn_unireplknet_t_in1k_3x_coco_ap51.75.pth",
}
# These need the network or a server, or are this very selection of tests: their syntax is all that is checked.
# tests/serve sends such requests.
NOT_RUN = ("pip install", "hf download", "bash launch/test.sh", "127.0.0.1:8000")
LONG = ("bash launch/quickstart.sh", "unireplknet train", "unireplknet see", "urk.reparameterize")
# What a training command of a block is given in addition: an epoch leaves behind what a whole run does.
SHORT = "--config.epochs=1 --config.optim.warmup_epochs=0"
LEFT_BEHIND = {
    "--draw seen.png": "seen.png",
    "--workdir runs/flowers": "runs/flowers/best/card.json",
    "bash launch/quickstart.sh": "runs/digits/predictions.png",
}


def blocks(page):
    """The blocks of a page that can run, as parameters; what takes long is slow, and so are other pages' blocks."""
    for block in split_page(page)[1]:
        slow = page != README or any(command in block.text for command in LONG)
        if not any(command in block.text for command in NOT_RUN):
            yield pytest.param(block, id=f"{page.name}:{block.line}", marks=[pytest.mark.slow] if slow else [])


def python_blocks(page):
    return [block for block in blocks(page) if block.values[0].language == "python"]


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory):
    """The files of a reader: weights under a published name, a picture, a folder of pictures."""
    folder = tmp_path_factory.mktemp("stand_ins")
    write(folder, ["a.pth", "picture.jpg", "flowers"])
    (folder / "a.pth").rename(folder / WEIGHTS)
    (folder / "picture.jpg").rename(folder / "rose.jpg")
    shutil.copy(folder / "rose.jpg", folder / "street.jpg")
    for small, published in STAND_INS.items():
        shutil.copy(ROOT / "tests" / "goldens" / "dense" / small, folder / published)
    for ending in ("onnx", "stablehlo"):
        shutil.copy(ROOT / "tests" / "goldens" / "export" / f"tiny.{ending}", folder / f"flowers.{ending}")
    return folder


@pytest.fixture
def here(stand_ins, tmp_path):
    """A folder with the stand-ins, and with what a clone has that the blocks name."""
    for source in (*stand_ins.iterdir(), *(ROOT / name for name in ("launch", "configs", "requirements.txt"))):
        (tmp_path / source.name).symlink_to(source)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """The environment of a shell in which this package is installed, in what passes for a virtual environment."""
    folder = tmp_path_factory.mktemp("venv")
    (folder / "bin").mkdir()
    scripts = {"python": "", "unireplknet": f'if [ "$1" = train ]; then set -- "$@" {SHORT}; fi\n'}
    for name, first in scripts.items():
        words = " -m unireplknet_jax" if first else ""
        (folder / "bin" / name).write_text(f'#!/bin/sh\n{first}exec "{sys.executable}"{words} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    return {
        **os.environ,
        "VIRTUAL_ENV": str(folder),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PIP_DRY_RUN": "1",  # a test that would install something fails without changing this environment
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
    }


def installed(here, environment):
    """Leave the stamp of launch/environment.sh, by which it knows that the package of this folder is installed."""
    command = "cat requirements.txt pyproject.toml | cksum"
    sum_of_files = subprocess.run(["bash", "-c", command], cwd=here, capture_output=True, text=True, check=True).stdout
    stamp = f"{here} {sum_of_files.strip()} \n"
    Path(environment["VIRTUAL_ENV"], "unireplknet_jax.stamp").write_text(stamp)


def with_shapes_checked(source):
    """A Python block and assertions of the shapes that its comments name, as in `logits = ...  # (1, 1000)`."""
    named = re.findall(r"^(\w+) = .*# (\(\d[\d, ]*\))", source, re.MULTILINE)
    return source + "".join(f"assert {name}.shape == {shape}, {name}.shape\n" for name, shape in named)


def test_the_page_is_short():
    assert len(README.read_text().splitlines()) <= 150


def test_blocks_are_of_the_shell_or_of_python():
    assert {block.language for block in split_page(README)[1]} == {"sh", "python"}


@pytest.mark.parametrize("block", [pytest.param(b, id=f"{p.name}:{b.line}") for p in PAGES for b in split_page(p)[1]])
def test_the_syntax_of_every_block(block):
    if block.language == "python":
        ast.parse(block.text)
    elif block.language == "sh":
        done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", python_blocks(README))
def test_python_blocks_run(block, here, environment):
    command = [sys.executable, "-c", with_shapes_checked(block.text)]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^[01]\.\d{3}  \S.*$", done.stdout, re.MULTILINE)
    assert len(rows) == (3 if "print(" in block.text else 0), done.stdout


@pytest.mark.parametrize("block", [block for page in PAGES if page != README for block in python_blocks(page)])
def test_python_blocks_of_other_pages_run(block, here, monkeypatch):
    """In this process, in which jax has started and has compiled what they have in common."""
    if "benchmark.gpu_cost" in block.text:
        need_cuda()
    monkeypatch.chdir(here)
    exec(with_shapes_checked(block.text), {"__name__": "__main__"})


@pytest.mark.parametrize("block", [block for block in blocks(README) if block.values[0].language == "sh"])
def test_shell_blocks_run(block, here, environment):
    installed(here, environment)
    command = ["bash", "-euo", "pipefail", "-c", block.text]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for words, file in LEFT_BEHIND.items():
        assert (here / file).exists() == (words in block.text), file


def test_only_these_blocks_do_not_run():
    run = [param.values[0] for param in blocks(README)]
    assert [block.text.splitlines()[-1] for block in split_page(README)[1] if block not in run] == [
        "pip install -e .",
        "bash launch/test.sh",
        f"hf download {zoo.REPOSITORY} {WEIGHTS} --local-dir .",
    ]
    assert zoo.weights_of_file(WEIGHTS)


def test_a_shape_that_is_not_what_the_comment_says_is_found():
    source = with_shapes_checked("import numpy as np\nx = np.zeros((2, 3))  # (2, 4)\ny = 1  # (n, c)\n")
    with pytest.raises(AssertionError, match=r"\(2, 3\)"):
        exec(source, {})
