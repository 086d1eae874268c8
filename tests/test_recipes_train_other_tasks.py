"""Every recipe for something else than pictures trains on data that are made up."""

import numpy as np
import pytest
from recipes import FILES, load, train_on_a_laptop

from unireplknet_jax.tasks.checkpoint import open_checkpoint
from unireplknet_jax.train.evaluate import evaluate
from unireplknet_jax.train.loop import train

SAME = "scanobjectnn"  # whose `:runlocal` is modelnet40's
LIKE = "finetune_boxes"  # whose `:runlocal` has the programs of coco's, which take minutes to compile
OTHERS = [name for name in FILES if load(name).task.name != "classification" and name not in (SAME, LIKE)]


def test_the_recipe_left_out_is_another_one():
    assert load(f"{SAME}:runlocal") == load("modelnet40:runlocal")
    model, other = (load(name).task.options.model for name in ("coco:runlocal", f"{LIKE}:a,runlocal"))
    assert {**model, "num_classes": 0} == {**other, "num_classes": 0}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_recipe_trains_on_a_laptop(name, tmp_path):
    train_on_a_laptop(name, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_a_few_stations_of_ones_own_are_forecast_better_than_by_doing_nothing(tmp_path):
    """Four stations of which each follows the one before it by two hours, days and noise, 2,500 hours with gaps."""
    rng, hours = np.random.default_rng(2), np.arange(2500)
    weather = np.zeros(len(hours) + 6)
    for hour in range(1, len(weather)):
        weather[hour] = 0.97 * weather[hour - 1] + rng.standard_normal()
    values = np.stack([weather[6 - 2 * station :][: len(hours)] for station in range(4)], axis=1)
    values += 5 * np.sin(2 * np.pi * hours / 24)[:, None] + 0.3 * rng.standard_normal(values.shape)
    times = np.datetime64("2024-01-01T00", "h") + hours
    rows = [f"{time},{','.join(f'{value:.2f}' for value in row)}" for time, row in zip(times, values, strict=True)]
    rows[700] = rows[700].rpartition(",")[0] + ","
    (tmp_path / "series.csv").write_text("\n".join(["time,a,b,c,d", *rows[:1200], *rows[1205:]]))
    config = load("station_weather:small", f"--config.data.dir={tmp_path}", "--config.epochs=1")
    train(config, tmp_path / "run")
    task = open_checkpoint(tmp_path / "run" / "best").task
    assert (task.labels, task.start, np.shape(task.spread)) == (tuple("abcd"), "regression", (24, 4))
    found = evaluated(tmp_path / "run" / "best", {"name": "csv", "dir": str(tmp_path)}, "test")
    worse = [name for name, value in found.items() if name.startswith("skill_persistence") and value <= 0]
    assert worse == []
    # Of this record the start's MSE is 8.8; that of the regression on the values is 8.9, of the climatology 20.8.
    assert found["skill_climatology"] > 0.5
    # An epoch of 25 steps makes the start some 7 % worse: the validation part, 250 hours, is too short to tell.
    assert found["skill_ridge"] > -0.1
    assert abs(found["skill_start"]) < 0.1


def evaluated(path, data, split):
    """The metrics of a forecaster in its merged form."""
    checkpoint = open_checkpoint(path).in_merged_form()
    task = checkpoint.task
    chosen, _ = task.compared(task.open(data, split), lambda: task.open(data, "train"))
    return evaluate(task, checkpoint.variables, task.examples(chosen, train=False), 64, deploy=True)
