"""The published recipes, as tests load and train them. The training tests are two files, for two processes."""

from pathlib import Path

import jax
import numpy as np
from fashion_files import write_fashion

from unireplknet_jax.cli.train import load_config
from unireplknet_jax.data.clips.moving_shapes import MOTIONS
from unireplknet_jax.data.pictures import scenes
from unireplknet_jax.data.shapes.solids import KINDS
from unireplknet_jax.data.sounds.sets import TONES
from unireplknet_jax.tasks.checkpoint import open_checkpoint
from unireplknet_jax.train.loop import train
from unireplknet_jax.train.metrics import read_metrics
from unireplknet_jax.train.recipe import completed

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "common")  # which is none
# Of every task: the data of `:runlocal`, and what they are labelled with.
MADE_UP = {
    "audio": ("tones", TONES),
    "classification": ("digits", tuple("0123456789")),
    "detection": ("scenes", scenes.LABELS[1:]),
    "forecasting": ("waves", tuple(f"buoy {index}" for index in range(12))),
    "points": ("solids", KINDS),
    "segmentation": ("scenes", scenes.LABELS),
    "video": ("moving_shapes", tuple(MOTIONS)),
}


def load(recipe, *overrides):
    """The recipe "NAME[:ARG]" as the command reads it."""
    name, colon, arg = recipe.partition(":")
    return completed(load_config(f"{CONFIGS / name}.py{colon}{arg}", list(overrides)))


def train_on_a_laptop(name, folder):
    """Train `NAME:runlocal` for three steps through its reader, task and loop; look at what it leaves in the folder."""
    config = load(f"{name}:runlocal")
    config.update({"epochs": 0.0, "steps": 3})
    config.optim.update({"warmup_epochs": 0.0, "warmup_steps": 1})
    # Without optimizations the programs compile in half the time, and those of points take ten times as long to run.
    points = config.task.name == "points"
    config.task.options.model.impl = "xla"  # which compiles fastest; tests/ops and tests/models have the other forms
    if config.data.name == "scenes":
        config.data.dir = str(folder / "clothes")
        (folder / "clothes").mkdir()
        for split in ("train", "t10k"):
            write_fashion(folder / "clothes", 40, split)
    jax.config.update("jax_disable_most_optimizations", not points)
    try:
        metrics = train(config, folder / "run")
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    assert bool(metrics) == bool(config.data.eval_split)
    assert_finite(metrics)
    assert ("skill_ridge" in metrics) == (config.task.name == "forecasting")
    rows = read_metrics(folder / "run" / "metrics.jsonl")
    assert any("train/loss" in row for row in rows)
    for row in rows:
        assert_finite(row)
    checkpoint = open_checkpoint(folder / "run" / "model")
    labels = MADE_UP[config.task.name][1]
    assert checkpoint.task.labels == labels
    assert getattr(checkpoint.module, "num_classes", len(labels)) == len(labels)


def assert_finite(numbers):
    """But for those of objects of above 96x96 pixels, of which scenes have none."""
    assert [name for name, value in numbers.items() if not (np.isfinite(value) or name.endswith("_large"))] == []
