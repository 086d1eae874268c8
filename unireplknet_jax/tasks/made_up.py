"""Made up to try things out with: checkpoints of random weights and a file for each task, which `benchmark startup`
measures with, and examples that an export is compared on."""

import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.tasks.base import Example, Task, get_task
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
    """Random variables with a task's names, in which no factor is far from 1, but the layer scales, which are near 0.1:
    otherwise each block makes the map larger and rounding with it, and nothing could be compared in a deep network.
    """
    rng = np.random.default_rng(0)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key == "kernel":
            return rng.standard_normal(leaf.shape, np.float32) / np.float32(np.prod(leaf.shape[:-1]) ** 0.5)
        scales = path[-1].key == "gamma" and path[-2].key != "grn"
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32) / np.float32(10 if scales else 1)

    return jax.tree_util.tree_map_with_path(draw, task.abstract_variables())


def examples(task: Task, count: int) -> list[Example]:
    """So many examples that the network of a task may meet, each of a source that the task reads, made up.

    Of a task whose sources are not known here, or that cannot read any, random arrays of the shapes of its examples.
    """
    rng = np.random.default_rng(0)
    source_of = _SOURCES.get(task.name)
    try:
        if source_of is None:
            raise ValueError(f"the sources of the task {task.name} are not known.")
        found = [task.read(source_of(task, rng, number))[0] for number in range(count)]
    except ValueError:
        found = [
            {name: _drawn(leaf, rng) for name, leaf in task.specs(train=False)[0].inputs.items()} for _ in range(count)
        ]
    return found


def _drawn(leaf: jax.ShapeDtypeStruct, rng: np.random.Generator) -> np.ndarray:
    if np.issubdtype(leaf.dtype, np.floating):
        return rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype)
    return rng.integers(0, 256 if leaf.dtype == np.uint8 else 2, leaf.shape).astype(leaf.dtype)


def _pixels(rng: np.random.Generator, turned: bool = False) -> np.ndarray:
    """A picture of soft spots, (375, 500, 3) uint8 or turned."""
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    picture = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC))
    return picture.swapaxes(0, 1) if turned else picture


def _waveform(task: Any, rng: np.random.Generator, number: int) -> np.ndarray:
    time = np.arange(int(task.rate * max(task.seconds, 1))) / task.rate
    tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in rng.uniform(100, task.rate / 3, 3))
    return (0.2 * tones + 0.05 * rng.standard_normal(len(time))).astype(np.float32)


def _frames(task: Any, rng: np.random.Generator, number: int) -> np.ndarray:
    picture = _pixels(rng)
    return np.stack([np.roll(picture, 5 * step, axis=1) for step in range(32)])


def _stations_table(task: Any, rng: np.random.Generator, number: int) -> EncodedFile:
    rows = task.history + task.horizon
    times = np.datetime64("2024-01-01T00:00:00") + np.arange(rows) * np.timedelta64(task.step, "s")
    std, mean = task.std or np.ones(task.stations), task.mean or np.zeros(task.stations)
    values = np.array(mean) + np.array(std) * rng.standard_normal((rows, task.stations))
    return EncodedFile(_csv(times, task.labels, values).encode(), "table.csv")


def _csv(times: np.ndarray, names: Sequence[str], values: np.ndarray) -> str:
    rows = [f"{time},{','.join(map(str, row))}" for time, row in zip(times, values, strict=True)]
    return "\n".join([",".join(["time", *names]), *rows]) + "\n"


def _turned_every_second(task: Any, rng: np.random.Generator, number: int) -> np.ndarray:
    return _pixels(rng, turned=number % 2 == 1)


_SOURCES: dict[str, Callable[[Any, np.random.Generator, int], Any]] = {
    **dict.fromkeys(("classification", "segmentation", "detection"), _turned_every_second),
    "audio": _waveform,
    "video": _frames,
    "points": lambda task, rng, number: rng.standard_normal((2000, 3)),
    "forecasting": _stations_table,
}


def _picture(path: pathlib.Path, seed: int = 0) -> None:
    Image.fromarray(_pixels(np.random.default_rng(seed))).save(path)


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
    path.write_text(_csv(times, ("north", "east", "west"), values))


_WRITERS = {
    "picture": _picture,
    "flowers": _flowers,
    "sound": _sound,
    "clip": _clip,
    "shape": _shape,
    "table": _table,
}
