"""Tasks by name, and a task nobody foresaw: it trains, is evaluated and saved by code that does not know it."""

import dataclasses
from typing import ClassVar

import dots
import dots_in_process
import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from unireplknet_jax.data.pipeline import train_batches, training_stream
from unireplknet_jax.models import torch_names
from unireplknet_jax.tasks import base
from unireplknet_jax.tasks.base import Spec, Split, Task, get_task
from unireplknet_jax.tasks.checkpoint import open_checkpoint
from unireplknet_jax.tasks.predict import predict_files
from unireplknet_jax.train import batches, evaluations
from unireplknet_jax.train.evaluate import evaluate
from unireplknet_jax.train.loop import train
from unireplknet_jax.train.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("quick_compilation")

SLOPES = np.array([2.0, -1.0, 0.5])


class Plane(nn.Module):
    """(n, 3) slopes' inputs and (n,) offsets -> (n,)."""

    @nn.compact
    def __call__(self, x, offset):
        return nn.Dense(1, use_bias=False, name="slopes")(x)[:, 0] + offset


class Points:
    """Exact points of the plane with SLOPES."""

    def __init__(self, n):
        self.x = np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        y = np.float32(self.x[i] @ SLOPES + i)
        return {"id": int(i), "x": self.x[i], "offset": np.float32(i), "y": y}


@dataclasses.dataclass(frozen=True)
class Regression(Task):
    """Find the slopes of a plane: no images, two inputs, no batch statistics, no classes."""

    scale: float = 1.0
    labels: tuple[str, ...] = ()
    name: ClassVar[str] = "regression"
    makes_records: ClassVar[bool] = True

    def module(self, deploy=False):
        return Plane()

    def specs(self, train):
        x, number = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3,), ()))
        return (Spec({"x": x, "offset": number}, {"y": number}),)

    def inputs(self, batch):
        return batch["x"], batch["offset"]

    def open(self, data, split, train=False):
        return Split(Points({"train": 64, "test": 13}[split]), data["name"], split)

    def examples(self, split, train, seed=0):
        if train:
            return training_stream(split.source, lambda example, rng: example, seed)
        return grain.MapDataset.source(split.source)

    def _errors(self, apply, variables, batch):
        return self.scale * (apply(variables, *self.inputs(batch)) - batch["y"])

    def loss(self, apply, variables, batch, rng):
        squares = jnp.square(self._errors(apply, variables, batch))
        return jnp.mean(squares), {"batch_stats": {}, "scalars": {"loss": (jnp.sum(squares), squares.size)}}

    def predict(self, apply, variables, inputs):
        return {"y": apply(variables, *self.inputs(inputs))}

    def totals(self, pred, batch):
        square = jnp.square(self.scale * (pred["y"] - batch["y"]))
        return {"square": jnp.sum(batch["mask"] * square), "count": jnp.sum(batch["mask"])}

    def record(self, pred, example):
        return {"id": int(example["id"]), "error": float(self.scale * (pred["y"] - example["y"]))}

    def metrics(self, totals, records):
        assert sorted(record["id"] for record in records) == list(range(int(totals["count"])))
        worst = max(abs(record["error"]) for record in records)
        return {"worst": worst, "mse": float(totals["square"] / totals["count"])}

    def name_table(self, deploy=False):
        leaf = jax.ShapeDtypeStruct((3, 1), jnp.float32)
        return torch_names.name_table({"params": {"slopes": {"kernel": leaf}}})


RECIPE = {
    "seed": 3,
    "task": {"name": "regression", "options": {"scale": 2.0}},
    "data": {"name": "points", "train_split": "train", "eval_split": "test"},
    "batch_size": 16,
    "eval_batch_size": 8,
    "epochs": 50,
    "eval_every_epochs": 25,
    "log_every": 50,
    "mesh": {"fsdp": 2},
    "optim": {
        **{"name": "adamw", "lr": 0.1, "min_lr": 0.0, "warmup_epochs": 1, "weight_decay": 0.0},
        **{"b1": 0.9, "b2": 0.99, "eps": 1e-8},
    },
}


def test_a_made_up_task_trains_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.setitem(base.TASKS, "regression", f"{__name__}:Regression")
    metrics = train(ConfigDict(RECIPE), tmp_path)
    again = open_checkpoint(tmp_path / "model")
    assert again.task == Regression(scale=2.0)
    found = np.asarray(again.variables["params"]["slopes"]["kernel"])[:, 0]
    # A convex problem without noise: 200 steps, the learning rate falling to 0, end within 0.1 % of the solution.
    np.testing.assert_allclose(found, SLOPES, rtol=1e-3)
    errors = 2 * Points(13).x @ (found - SLOPES)
    assert list(metrics) == ["worst", "mse"]
    # Offsets up to 12 round the residuals to 1e-6.
    assert metrics["worst"] == pytest.approx(np.abs(errors).max(), abs=1e-5)
    assert metrics["mse"] == pytest.approx(np.mean(errors**2), abs=1e-8)


def test_a_task_of_any_shapes_is_evaluated_and_predicted(tmp_path, monkeypatch):
    monkeypatch.setitem(base.TASKS, "dots", "dots:Dots")
    metrics = train(ConfigDict(dots_in_process.RECIPE), tmp_path / "run")
    # Exact: 13 pictures of three sizes, their truth of any length, their names beside it.
    pictures = [dots.Pictures(13)[i] for i in range(13)]
    bright = sum(len(picture["dots"]) for picture in pictures)
    assert (metrics["wrong"], metrics["records"], metrics["named"], metrics["bright"]) == (0, 13, 13, bright)
    assert metrics["pixels"] == sum(picture["x"].size for picture in pictures)
    checkpoint = open_checkpoint(tmp_path / "run" / "model")
    assert set(checkpoint.variables["params"]) == {"pixel", "count"}
    files = [tmp_path / f"{i}.npy" for i in range(5)]
    for file, picture in zip(files, pictures, strict=False):
        np.save(file, picture["x"])
    files[2].write_bytes(b"no array")
    results = list(predict_files(checkpoint, files))
    assert [bool(result.error) for result in results] == [False, False, True, False, False]
    for i in (0, 1, 3, 4):
        assert results[i].records == [{"id": str(files[i]), "found": pictures[i]["dots"].tolist()}]


def test_a_training_evaluates_with_the_options_of_its_section(tmp_path, monkeypatch):
    monkeypatch.setitem(base.TASKS, "regression", f"{__name__}:Regression")
    metrics = []
    for section in ({}, {"scale": 6.0}):
        config = ConfigDict({**RECIPE, "epochs": 1, "eval": section})
        config.optim.warmup_epochs = 0
        metrics.append(train(config, tmp_path / str(len(metrics))))
    assert open_checkpoint(tmp_path / "1" / "model").task == Regression(scale=2.0)
    assert metrics[1]["worst"] == pytest.approx(3 * metrics[0]["worst"])


@pytest.mark.slow  # another run
def test_a_training_of_so_many_steps_evaluates_every_so_many(tmp_path, monkeypatch):
    monkeypatch.setitem(base.TASKS, "regression", f"{__name__}:Regression")
    config = ConfigDict({**RECIPE, "epochs": 0, "steps": 7, "eval_every_epochs": 0, "eval_every_steps": 3})
    config.optim.warmup_epochs = 0
    train(config, tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "eval/worst" in row] == [3, 6, 7]


def test_a_training_evaluates_with_the_threads_and_workers_of_its_recipe(tmp_path, monkeypatch):
    monkeypatch.setitem(base.TASKS, "regression", f"{__name__}:Regression")
    asked = []

    def noted(*args, num_threads, workers, **options):
        asked.append((options.get("deploy", False), num_threads, workers))
        return evaluate(*args, **options)

    monkeypatch.setattr(evaluations, "evaluate", noted)
    monkeypatch.setattr(batches, "train_batches", lambda *args, **options: train_batches(*args[:-1], 0, **options))
    config = ConfigDict({**RECIPE, "epochs": 1, "data": {**RECIPE["data"], "num_threads": 3, "workers": 2}})
    config.optim.warmup_epochs = 0
    # As if the network had a merged form.
    monkeypatch.setattr(evaluations, "is_merged", lambda variables: False)
    monkeypatch.setattr(evaluations, "reparameterize", lambda variables: variables)
    train(config, tmp_path)
    assert asked == [(False, 3, 2), (True, 3, 2)]


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown task 'telepathy'; known tasks: .*audio.*classification"):
        get_task("telepathy")


@pytest.mark.parametrize("options", [{}, {"model": {}}, {"model": {"depht": 3}}, {"model": (), "aura": 1}])
def test_options_that_do_not_build_a_task_are_a_value_error(options):
    sentences = r"task classification (cannot be built|has no option 'aura')|no option 'depht'; did you mean depths?"
    with pytest.raises(ValueError, match=sentences):
        get_task("classification", **options)


def test_a_task_is_built_again_from_its_name_and_options():
    model = {"name": "unireplknet_t", "num_classes": 3, "drop_path_rate": 0.2}
    task = get_task("classification", model=model, image_size=64, labels=("a", "b", "c"))
    assert get_task(task.name, **task.options, labels=task.labels) == task
    turned = dict(reversed(model.items()))
    assert get_task("classification", model=turned, image_size=64, labels=["a", "b", "c"]) == task
    assert task.module().dims == (80, 160, 320, 640)
