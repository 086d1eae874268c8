"""The recipes that ship: found from anywhere, and described as they are."""

import inspect
import os
import runpy
from pathlib import Path

import pytest

from unireplknet_jax.cli.train import load_config
from unireplknet_jax.train.shipped import find_recipe, find_shipped, shipped_recipes

CONFIGS = Path(__file__).parents[2] / "configs"


def test_every_file_of_the_folder_but_the_shared_one_is_a_recipe():
    assert {*shipped_recipes()} == {path.name for path in CONFIGS.glob("*.py")} - {"common.py"}


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_takes_the_words_that_are_listed(name):
    """The words are read off the file; here it runs. The first one is the default."""
    recipe, run = shipped_recipes()[name], runpy.run_path(str(CONFIGS / name))
    assert recipe.arguments == tuple(run.get("SIZES", run.get("ARGUMENTS")))
    assert recipe.options == tuple(run.get("OPTIONS", ()))
    assert inspect.signature(run["get_config"]).parameters["arg"].default == recipe.arguments[0]
    assert recipe.text == run["__doc__"].strip()
    assert recipe.text.startswith(recipe.summary)
    assert recipe.summary.endswith(".")
    assert os.path.samefile(recipe.path, CONFIGS / name)


@pytest.mark.parametrize("recipe", ["modelnet40.py:runlocal", "configs/modelnet40.py:runlocal"])
def test_a_shipped_recipe_is_found_from_anywhere(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(recipe, ["--config.seed=3"]) == load_config(
        f"{CONFIGS}/modelnet40.py:runlocal", ["--config.seed=3"]
    )


def test_a_file_of_ones_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("modelnet40.py").write_text("from ml_collections import ConfigDict\nget_config = lambda: ConfigDict({'x': 1})")
    assert find_recipe("modelnet40.py") == Path("modelnet40.py")
    assert load_config("modelnet40.py", []).to_dict() == {"x": 1}
    assert find_recipe("configs/modelnet40.py") == find_shipped("modelnet40.py").path


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("imagnet1k.py", "did you mean imagenet1k.py?"),
        ("imagenet1k", "did you mean imagenet1k.py?"),
        ("configs/imagenet1.py", "did you mean imagenet1k.py?"),
        ("mine/imagenet1k.py", "did you mean imagenet1k.py?"),
        ("my/experiments/of/last/year/imagenet1.py", "did you mean imagenet1k.py?"),
        ("common.py", "did you mean coco.py?"),  # which is none
        ("", "`unireplknet recipes` lists them."),
    ],
)
def test_an_unknown_recipe_is_one_sentence_with_what_may_be_meant(name, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the whole text is compared
        find_recipe(name)
    assert str(caught.value) == f"there is no recipe {name} here, and none among those that ship; {hint}"
