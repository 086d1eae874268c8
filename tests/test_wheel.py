"""The wheel, installed away from the repository: the recipes come with it and work from there."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "requirements.txt", "README.md", "LICENSE", "configs", "unireplknet_jax")
LOAD_ALL = """
import unireplknet_jax
from unireplknet_jax.cli.train import load_config
from unireplknet_jax.train.shipped import shipped_recipes
for name in shipped_recipes():
    assert load_config(f"{name}:runlocal", []).batch_size > 0
print(unireplknet_jax.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, in which no earlier build has left anything."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            unwanted = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, source / name, symlinks=True, ignore=unwanted)
        else:
            shutil.copy(REPOSITORY / name, source / name)
    pip("wheel", "--no-deps", *build_options(), "--wheel-dir", folder, source)
    (path,) = folder.glob("*.whl")
    return path


def build_options():
    """Nothing is fetched for the build where a setuptools of pyproject.toml's version is here."""
    try:
        recent = int(importlib.metadata.version("setuptools").split(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        recent = False
    return ["--no-build-isolation"] if recent else []


def pip(*words):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_wheel_holds_the_recipes_and_the_page_inside_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"unireplknet_jax"}
    found = {Path(name).name for name in names if name.startswith("unireplknet_jax/configs/")}
    assert found == {path.name for path in (REPOSITORY / "configs").glob("*.py")}
    page = {Path(name).name for name in names if name.startswith("unireplknet_jax/tasks/page/")}
    assert page == {path.name for path in (REPOSITORY / "unireplknet_jax/tasks/page").iterdir()}


@pytest.mark.slow
def test_an_installed_package_finds_and_runs_its_recipes(wheel, tmp_path):
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip("install", "--no-deps", "--target", installed, wheel)

    def run(*words):
        environment = os.environ | {"PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=elsewhere, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", LOAD_ALL) == f"{installed}/unireplknet_jax/__init__.py\n"
    listed = json.loads(run("-m", "unireplknet_jax", "recipes", "--json"))
    assert {entry["name"] for entry in listed} == {path.name for path in REPOSITORY.glob("configs/*.py")} - {
        "common.py"
    }
    assert all(Path(entry["path"]).parent == installed / "unireplknet_jax" / "configs" for entry in listed)
    overrides = ["--config.epochs=0.1", "--config.optim.warmup_epochs=0", f"--workdir={tmp_path / 'run'}"]
    run("-m", "unireplknet_jax", "train", "--config", "small_images.py:runlocal", *overrides)
    assert (tmp_path / "run" / "model" / "card.json").is_file()
