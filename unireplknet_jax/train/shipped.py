"""The recipes that come with the package: where they lie and what they say about themselves.

unireplknet_jax/configs is a link to the folder configs/ of the repository, and a folder of its own once installed.
"""

import ast
import pathlib
from typing import NamedTuple

from unireplknet_jax.data.base import nearest

FOLDER = pathlib.Path(__file__).parents[1] / "configs"


class Recipe(NamedTuple):
    """What a recipe's file says without being run: its docstring, and the words that `get_config` takes."""

    name: str  # "imagenet1k.py"
    path: pathlib.Path
    text: str
    arguments: tuple[str, ...]  # of which one is taken: sizes or kinds of data; the first by default
    options: tuple[str, ...]  # of which any may follow, after a comma

    @property
    def summary(self):
        return self.text.splitlines()[0]


def shipped_recipes():
    """The `Recipe`s of the package by name; a file there without `get_config` is none."""
    recipes = [read_recipe(path) for path in sorted(FOLDER.glob("*.py"))]
    return {recipe.name: recipe for recipe in recipes if recipe is not None}


def find_recipe(name):
    """The path of a recipe: of the file of that path, or else of the shipped one, as `find_shipped` takes its name."""
    return pathlib.Path(name) if pathlib.Path(name).is_file() else find_shipped(name).path


def find_shipped(name):
    """The shipped `Recipe` called `name` or configs/`name`.

    Raises ValueError, with a name that is near, if there is none.
    """
    recipes, short = shipped_recipes(), name.removeprefix("configs/")
    if short in recipes:
        return recipes[short]
    hint = nearest(pathlib.PurePath(name).name, tuple(recipes), "`unireplknet recipes` lists them.", most=1)
    raise ValueError(f"there is no recipe {name} here, and none among those that ship; {hint}")


def read_recipe(path):
    """The `Recipe` in a file; None where it has no `get_config`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not any(isinstance(node, ast.FunctionDef) and node.name == "get_config" for node in tree.body):
        return None
    words = {
        node.targets[0].id: tuple(ast.literal_eval(node.value))
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("SIZES", "ARGUMENTS", "OPTIONS")
    }
    arguments = words.get("SIZES", words.get("ARGUMENTS", ()))
    return Recipe(path.name, path, ast.get_docstring(tree) or "", arguments, words.get("OPTIONS", ()))
