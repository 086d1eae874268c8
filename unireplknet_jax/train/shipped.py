"""The recipes that come with the package: where they lie and what they say about themselves.

unireplknet_jax/configs is a link to the folder configs/ of the repository, and a folder of its own once installed.
"""

import ast
import difflib
import pathlib
from typing import NamedTuple

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
    recipes = [_read(path) for path in sorted(FOLDER.glob("*.py"))]
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
    near = difflib.get_close_matches(pathlib.PurePath(name).name, recipes, n=1)
    hint = f"did you mean {near[0]}?" if near else "`unireplknet recipes` lists them."
    raise ValueError(f"there is no recipe {name} here, and none among those that ship; {hint}")


def _read(path):
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
