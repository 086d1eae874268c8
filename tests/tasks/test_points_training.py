"""The recipe of the solids learns: far above the nearest centroid of the very pictures that the network begins with."""

from pathlib import Path

import jax
import numpy as np
import pytest
from splits import examples_of

from unireplknet_jax.cli.train import load_config
from unireplknet_jax.data.pipeline import eval_batches
from unireplknet_jax.train.loop import train
from unireplknet_jax.train.recipe import completed
from unireplknet_jax.train.setup import make_task

RECIPE = f"{Path(__file__).parents[2] / 'configs' / 'modelnet40.py'}:solids"
SMALLER = ("view_size=28", "object_size=28", "points=256", "raw_points=512", "votes=1")


def pictures(task, data, split):
    """((n, pixels) projections of all views in the first pose, (n,) labels) of a split."""
    project, found = jax.jit(lambda batch: task.preview(batch, None)), []
    for batch in eval_batches(examples_of(task, data, split, train=False), 20):
        kept = np.broadcast_to(np.arange(task.points, dtype=np.int32), (20, task.points))
        shown = np.asarray(project({"points": batch["points"], "poses": batch["poses"], "kept": kept}))
        found.append((shown.reshape(20, -1), batch["label"]))
    return map(np.concatenate, zip(*found, strict=True))


def nearest_centroid(task, data):
    """The accuracy, in percent, of giving a test shape the class whose mean training picture is nearest."""
    shown, label = pictures(task, data, "train")
    centroids = np.stack([shown[label == k].mean(axis=0) for k in range(10)])
    shown, label = pictures(task, data, "test")
    distance = ((shown[:, None] - centroids) ** 2).sum(axis=-1)
    return 100 * np.mean(distance.argmin(axis=1) == label)


@pytest.mark.slow
def test_solids_are_learned(tmp_path):
    overrides = [f"--config.task.options.{field}" for field in SMALLER]
    config = completed(load_config(RECIPE, [*overrides, "--config.epochs=6", "--config.data.votes=1"]))
    metrics = train(config, tmp_path)
    baseline = nearest_centroid(make_task(config), config.data.to_dict())
    assert metrics["OA"] > 85
    assert metrics["OA"] > baseline + 10
