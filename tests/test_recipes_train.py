"""Every recipe file trains through its real reader, task and loop, on data that are made up."""

import jax
import numpy as np
import pytest
from recipes import FILES, MADE_UP, load

from unireplknet_jax.tasks.checkpoint import open_checkpoint
from unireplknet_jax.train.loop import train
from unireplknet_jax.train.metrics import read_metrics


@pytest.fixture
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", FILES)
def test_every_recipe_trains_on_a_laptop(name, tmp_path):
    config = load(f"{name}:runlocal", "--config.epochs=1")
    config.optim.warmup_epochs = min(config.optim.warmup_epochs, 0.5)
    metrics = train(config, tmp_path)
    assert bool(metrics) == bool(config.data.eval_split)
    assert np.all(np.isfinite(list(metrics.values())))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert any("train/loss" in row for row in rows)
    assert np.all(np.isfinite([value for row in rows for value in row.values()]))
    checkpoint = open_checkpoint(tmp_path / "model")
    labels = MADE_UP[config.task.name][1]
    assert checkpoint.task.labels == labels
    assert getattr(checkpoint.module, "num_classes", len(labels)) == len(labels)
