"""Checkpoints with random weights, and a file for each task to look at: what `benchmark startup` measures with."""

import os
import pathlib
import tempfile
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from PIL import Image

from unireplknet_jax.tasks.base import Task, get_task
from unireplknet_jax.tasks.checkpoint import Checkpoint, save_checkpoint, save_torch_checkpoint

_A = {"name": "unireplknet_a", "num_classes": 10}
_STATIONS = {
    "model": {"name": "unireplknet_a"},
    "decoder": {"width": 32, "heads": 4, "hidden": 64, "layers": 1},
    **{"tree": (3,), "history": 48, "label": 24, "horizon": 24},
    **{"stations": 3, "labels": ("north", "east", "west"), "unit": "degrees"},
    **{"mean": (10.0,) * 3, "std": (5.0,) * 3},
}
_TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "sound": ("audio", {"model": _A}),
    "clip": ("video", {"model": _A}),
    "shape": ("points", {"model": _A, "votes": 1}),
    "table": ("forecasting", _STATIONS),
}
FILES = {"sound": "sound.wav", "clip": "clip.avi", "shape": "shape.xyz", "table": "table.csv"}


def write(folder: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Write the named files: "a.pth", "picture.jpg", "flowers", "sound" (a checkpoint), "sound.wav" and their like."""
    folder = pathlib.Path(folder)
    for name in names:
        if (folder / name).exists():
            continue
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # whole or not at all
            _write(pathlib.Path(scratch) / name)
            os.replace(pathlib.Path(scratch) / name, folder / name)


def _write(path: pathlib.Path) -> None:
    if path.suffix == ".pth":
        task = get_task("classification", model={"name": f"unireplknet_{path.stem}"})
        save_torch_checkpoint(path, _made_up(task))
    elif path.name in _TASKS:
        task = get_task(_TASKS[path.name][0], **_TASKS[path.name][1])
        save_checkpoint(path, Checkpoint(task, _made_up(task), merged=False))
    else:
        _WRITERS[path.stem](path)


def _made_up(task: Task) -> dict[str, Any]:
    """Random variables with a task's names, in which no factor is far from 1."""
    rng = np.random.default_rng(0)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key == "kernel":
            return rng.standard_normal(leaf.shape, np.float32) / np.float32(np.prod(leaf.shape[:-1]) ** 0.5)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, task.abstract_variables())


def _picture(path: pathlib.Path, seed: int = 0) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(path)


def _flowers(path: pathlib.Path) -> None:
    for split, count in (("train", 64), ("val", 16)):
        for number in range(count):
            folder = path / split / ("rose", "tulip")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            _picture(folder / f"{number}.jpg", number)


def _sound(path: pathlib.Path) -> None:
    import soundfile

    soundfile.write(path, np.sin(np.arange(16_000) * 0.2), 16_000)


def _clip(path: pathlib.Path) -> None:
    from unireplknet_jax.data.clips.moving_shapes import write_video

    write_video(path, np.random.default_rng(0).integers(0, 256, (32, 120, 160, 3), np.uint8))


def _shape(path: pathlib.Path) -> None:
    np.savetxt(path, np.random.default_rng(0).standard_normal((2000, 3)))


def _table(path: pathlib.Path) -> None:
    times = np.datetime64("2024-01-01T00", "h") + np.arange(100)
    values = np.random.default_rng(0).uniform(0, 20, (100, 3)).round(1)
    rows = [f"{time},{','.join(map(str, row))}" for time, row in zip(times, values, strict=True)]
    path.write_text("\n".join(["time,north,east,west", *rows]) + "\n")


_WRITERS = {
    "picture": _picture,
    "flowers": _flowers,
    "sound": _sound,
    "clip": _clip,
    "shape": _shape,
    "table": _table,
}
