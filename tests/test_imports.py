"""The floors: imports go down only, the lower ones need few libraries, modalities are known to tasks and data alone."""

import ast
import graphlib
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

NAME = "unireplknet_jax"
PACKAGE = Path(__file__).parents[1] / NAME
FLOORS = ("ops", "nn", "models", "tasks", "train", "benchmark", "serve", "cli")
MAY_IMPORT = {floor: {*FLOORS[: height + 1]} for height, floor in enumerate(FLOORS)} | {"data": {"data"}}
MAY_IMPORT["serve"] -= {"benchmark"}
for _floor in ("tasks", "train", "benchmark", "serve", "cli"):
    MAY_IMPORT[_floor].add("data")
ROOMS = {
    "pictures": set(),
    "clips": {"pictures"},
    "sounds": set(),
    "shapes": set(),
    "series": set(),
}
LIBRARIES = {"ops": {"jax", "numpy"}, "nn": {"jax", "flax", "numpy"}, "models": {"jax", "flax", "numpy", "ml_dtypes"}}
MODALITIES = {
    "audio",
    "speech",
    "waveform",
    "spectrogram",
    "video",
    "videos",
    "pointcloud",
    "pointclouds",
    "timeseries",
}
MODALITY_PAIRS = {("point", "cloud"), ("point", "clouds"), ("time", "series")}
HEAVY = ("optax", "orbax", "grain", "tensorflow_datasets", "PIL", "sklearn", "torch", "safetensors", "huggingface_hub")
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imported(tree, file):
    """Yield (line, dotted name) of every import, lazy ones and relative ones included; `from a import b` gives a.b."""
    package = [NAME, *Path(file).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            start = next((leaf for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)), None)
            if start is not None and isinstance(start.value, str):
                yield node.lineno, start.value


def at_module_level(tree):
    """Yield the nodes that run on import: all but the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_module_level(node)


def upward_imports(source, file):
    """What `file` (a path inside the package) imports although its floor may not."""
    floor = file.split("/")[0]
    if "/" not in file:
        return [
            f"{file}:{line} {name}" for line, name in imported(ast.parse(source), file) if name.startswith("configs")
        ]
    wrong = []
    for line, name in imported(ast.parse(source), file):
        root, *rest = name.split(".")
        if root == "configs" or (root == NAME and (not rest or rest[0] not in {*MAY_IMPORT[floor], "__version__"})):
            wrong.append(f"{file}:{line} {name}")
    return wrong


def sideways_imports(source, file):
    """What `file` imports from another room of data/ than its own, although it may not; what all share has no room."""
    own = file.split("/")[1]
    allowed = {own, *ROOMS.get(own, ())}
    names = [(line, name.split(".")) for line, name in imported(ast.parse(source), file)]
    return [
        f"{file}:{line} {'.'.join(name)}"
        for line, name in names
        if name[:2] == [NAME, "data"] and {*name[2:3]} & {*ROOMS} - allowed
    ]


def circles(sources):
    """The files, {path inside the package: source}, that import each other in a circle, lazy imports included."""
    files = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in sources}
    graph = {}
    for file, source in sources.items():
        names = (name.removeprefix(f"{NAME}.") for _, name in imported(ast.parse(source), file))
        found = {files.get(name) or files.get(name.rpartition(".")[0]) for name in names}
        graph[file] = found - {None, file}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def foreign_imports(source, file):
    """The libraries that `file` imports when it is imported, although its floor may not."""
    allowed = {NAME, *sys.stdlib_module_names, *LIBRARIES[file.split("/")[0]]}
    tree = ast.parse(source)
    module = ast.Module([node for node in at_module_level(tree) if isinstance(node, ast.Import | ast.ImportFrom)], [])
    return [f"{file}:{line} {name}" for line, name in imported(module, file) if name.split(".")[0] not in allowed]


def modality_names(source, file):
    """The identifiers and strings, docstrings apart, and the file name in which a modality is named."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    nodes = [node for node in ast.walk(tree) if id(node) not in docstrings]
    texts = [file, *(value for node in nodes for _, value in ast.iter_fields(node) if isinstance(value, str))]
    return [f"{file}: {text!r}" for text in texts if names_a_modality(text)]


def names_a_modality(text):
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", text)]
    return bool(MODALITIES & {*words} or MODALITY_PAIRS & {*itertools.pairwise(words)})


def test_the_package_is_made_of_its_floors():
    assert {file.split("/")[0] for file in FILES} <= {*FLOORS, "data", "__init__.py", "__main__.py"}
    assert {file.split("/")[1] for file in FILES if file.startswith("data/") and file.count("/") > 1} == {*ROOMS}
    assert not [file for file in FILES if file.count("/") > (2 if file.startswith("data/") else 1)]


def test_no_two_files_import_each_other():
    assert circles({file: (PACKAGE / file).read_text() for file in FILES}) == []


@pytest.mark.parametrize("file", FILES)
def test_imports_go_down_only(file):
    assert upward_imports((PACKAGE / file).read_text(), file) == []


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("data/")])
def test_the_rooms_of_data_are_apart(file):
    assert sideways_imports((PACKAGE / file).read_text(), file) == []


@pytest.mark.parametrize("file", [file for file in FILES if file.split("/")[0] in LIBRARIES])
def test_the_lower_floors_import_few_libraries(file):
    assert foreign_imports((PACKAGE / file).read_text(), file) == []


@pytest.mark.parametrize("file", [file for file in FILES if file.split("/")[0] not in ("tasks", "data")])
def test_modalities_are_named_in_tasks_and_data_alone(file):
    assert modality_names((PACKAGE / file).read_text(), file) == []


@pytest.mark.parametrize("file", FILES)
def test_a_file_has_at_most_400_lines(file):
    assert len((PACKAGE / file).read_text().splitlines()) <= 400


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("ops/made_up.py", "from unireplknet_jax.nn.layers import gelu"),
        ("ops/made_up.py", "from ..nn import layers"),
        ("nn/made_up.py", "def f():\n    from unireplknet_jax import models"),
        ("models/made_up.py", "import unireplknet_jax"),
        ("models/made_up.py", "from unireplknet_jax import load_checkpoint"),
        ("models/made_up.py", "import importlib\ntask = importlib.import_module(f'unireplknet_jax.tasks.{name}')"),
        ("models/made_up.py", "import unireplknet_jax.data.pictures.sets"),
        ("data/made_up.py", "from unireplknet_jax.ops import fold"),
        ("tasks/made_up.py", "import unireplknet_jax.train.loop as loop"),
        ("train/made_up.py", "from .. import cli"),
        ("cli/made_up.py", "from configs import small_images"),
        ("__main__.py", "import configs.small_images"),
    ],
)
def test_an_upward_import_is_found(file, source):
    assert len(upward_imports(source, file)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("nn/made_up.py", "import os\nfrom ..ops import fold\nfrom unireplknet_jax.nn import layers"),
        ("cli/made_up.py", "from unireplknet_jax.data.pictures import sets\nfrom unireplknet_jax.train import loop"),
        ("data/made_up.py", "from . import sources"),
        ("tasks/made_up.py", "from unireplknet_jax import __version__"),
        ("__init__.py", "from .tasks import load_checkpoint\nfrom unireplknet_jax.models import zoo"),
    ],
)
def test_a_downward_import_is_fine(file, source):
    assert upward_imports(source, file) == []


@pytest.mark.parametrize(
    ("file", "source", "count"),
    [
        ("data/broken.py", "from unireplknet_jax.data.pictures.decode import read_image", 1),
        ("data/broken.py", "from unireplknet_jax.data import base, pictures", 1),
        ("data/sounds/made_up.py", "def f():\n    from ..shapes import points", 1),
        ("data/pictures/made_up.py", "from unireplknet_jax.data.clips import frames", 1),
        ("data/clips/made_up.py", "from unireplknet_jax.data.pictures import randaugment", 0),
        ("data/series/made_up.py", "from . import stations\nfrom unireplknet_jax.data.base import listed", 0),
        ("data/made_up.py", "from unireplknet_jax import data\nfrom unireplknet_jax.data.base import listed", 0),
    ],
)
def test_an_import_from_another_room_is_found(file, source, count):
    assert len(sideways_imports(source, file)) == count


def test_a_circle_is_found_although_one_import_is_lazy():
    sources = {
        "data/sounds/sets.py": "def f():\n    from unireplknet_jax.data.sounds.speech import speak",
        "data/sounds/speech.py": "from unireplknet_jax.data.sounds.sets import COMMANDS",
        "data/base.py": "import unireplknet_jax.data.base",
    }
    assert {*circles(sources)} == {"data/sounds/sets.py", "data/sounds/speech.py"}
    assert circles(sources | {"data/sounds/speech.py": "from . import waveforms"}) == []


def test_a_foreign_library_is_found_at_module_level_only():
    lazy = "def load():\n    import optax\n"
    assert foreign_imports(lazy, "models/made_up.py") == []
    assert (
        len(foreign_imports(lazy + "try:\n    import PIL.Image\nexcept ImportError:\n    pass", "nn/made_up.py")) == 1
    )
    assert len(foreign_imports("import flax.linen as nn", "ops/made_up.py")) == 1


def test_a_modality_name_is_found_but_not_in_a_docstring():
    assert modality_names('"""For images and audio."""\nseries = point = clouds = 1', "nn/made_up.py") == []
    for source in (
        "def audio_stem(): pass",
        "x = 'video'",
        "class PointCloud: pass",
        "f(time_series=1)",
        "import a.speech",
    ):
        assert len(modality_names(source, "nn/made_up.py")) == 1, source
    assert len(modality_names("", "nn/video_stem.py")) == 1


BARE_IMPORT = f"""
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
for floor in ("ops", "nn", "models"):
    package = importlib.import_module(f"{NAME}.{{floor}}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        print(module.name)
"""


def test_the_lower_floors_import_without_the_heavy_libraries():
    done = subprocess.run([sys.executable, "-c", BARE_IMPORT], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert f"{NAME}.models.zoo" in done.stdout.split()


def test_opening_a_checkpoint_imports_no_reader_and_no_optimizer():
    """Grain, Orbax and optax take half a second, which a prediction of one picture has no use for."""
    script = "import sys, unireplknet_jax.tasks.checkpoint; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert not {"grain", "orbax", "optax", "PIL", "tensorflow_datasets"} & {*done.stdout.split()}, done.stderr
