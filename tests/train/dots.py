"""A task that nothing in the package knows: pictures of several sizes, truth of any length, a loss of two passes.

Found are the pixels that are brighter than the network's threshold; the truth of a picture is a list of them.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.data.pipeline import training_stream
from unireplknet_jax.models import torch_names
from unireplknet_jax.tasks.base import Spec, Split, Task

SIZES = ((4, 6), (5, 5), (4, 4))  # of the pictures in turn
LARGEST = 6  # what training pads to


class Pixels(nn.Module):
    """(n, h, w) -> (n, h, w) logits; `counted` is for the loss alone."""

    def setup(self):
        self.pixel, self.count = nn.Dense(1), nn.Dense(1)

    def __call__(self, x, train=False):
        return self.pixel(x[..., None])[..., 0]

    def counted(self, x):
        """(n,): how many bright pixels a picture has."""
        return self.count(jnp.sum(jax.nn.sigmoid(self(x)), axis=(1, 2))[:, None])[:, 0]

    def everything(self, x):
        return self(x), self.counted(x)


class Pictures:
    """Picture i has i % 4 bright pixels, each somewhere else."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        (h, w), rng = SIZES[i % len(SIZES)], np.random.default_rng(i)
        dots = np.argwhere(np.ones((h, w)))[np.sort(rng.permutation(h * w)[: i % 4])]
        picture = rng.uniform(0, 0.2, (h, w)).astype(np.float32)
        picture[tuple(dots.T)] += 0.8
        return {"id": i, "x": picture, "dots": dots, "name": f"picture {i}"}


@dataclasses.dataclass(frozen=True)
class Dots(Task):
    labels: tuple[str, ...] = ()

    name: ClassVar[str] = "dots"
    makes_records: ClassVar[bool] = True

    def module(self, deploy=False):
        return Pixels()

    def specs(self, train):
        sizes = [(LARGEST, LARGEST)] if train else SIZES
        return tuple(self._spec(size, train) for size in sizes)

    def _spec(self, size, train):
        x, count = jax.ShapeDtypeStruct(size, jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
        return Spec({"x": x}, {"bright": x, "count": count} if train else {})

    def inputs(self, batch):
        return (batch["x"],)

    def training_shapes(self):
        return (jax.ShapeDtypeStruct((1, LARGEST, LARGEST), jnp.float32),)

    def init(self, key):
        return self.module().init(key, jnp.zeros((1, 2, 2)), method="everything")

    def open(self, data, split, train=False):
        return Split(Pictures({"train": 64, "test": 13}[split]), data["name"], split)

    def examples(self, split, train, seed=0):
        if not train:
            return grain.MapDataset.source(split.source)
        return training_stream(split.source, _padded, seed)

    def shape_keys(self, split):
        return [SIZES[i % len(SIZES)] for i in range(len(split.source))]

    def read(self, source):
        return [{"x": np.load(source), "id": str(source)}]

    def loss(self, apply, variables, batch, rng):
        logits = apply(variables, batch["x"], train=True)
        counts = apply(variables, batch["x"], method="counted")
        losses = jnp.mean(jax.nn.softplus(jnp.where(batch["bright"] > 0, -logits, logits)), axis=(1, 2))
        losses += 0.01 * jnp.square(counts - batch["count"])
        return jnp.mean(losses), {"batch_stats": {}, "scalars": {"loss": (jnp.sum(losses), losses.size)}}

    def predict(self, apply, variables, inputs):
        return {"bright": apply(variables, *self.inputs(inputs)) > 0}

    def totals(self, pred, batch):
        pixels = jnp.sum(batch["mask"]).astype(jnp.int32) * pred["bright"][0].size
        return {"pixels": pixels, "bright": jnp.sum(pred["bright"], where=batch["mask"][:, None, None] > 0)}

    def record(self, pred, example):
        found = np.argwhere(pred["bright"]).tolist()
        if "dots" not in example:
            return {"id": example["id"], "found": found}
        missed = len({*map(tuple, found)} ^ {*map(tuple, example["dots"].tolist())})
        return {"id": example["id"], "name": example["name"], "found": found, "wrong": missed}

    def metrics(self, totals, records):
        return {
            "wrong": sum(record["wrong"] for record in records),
            "pixels": int(totals["pixels"]),
            "bright": int(totals["bright"]),
            "records": len(records),
            "named": sum(record["name"] == f"picture {record['id']}" for record in records),
        }

    def name_table(self, deploy=False):
        return torch_names.name_table(jax.eval_shape(lambda: self.init(jax.random.key(0))))


def _padded(example, rng):
    del rng
    bright = np.zeros((LARGEST, LARGEST), np.float32)
    bright[tuple(example["dots"].T)] = 1
    h, w = example["x"].shape
    x = np.pad(example["x"], ((0, LARGEST - h), (0, LARGEST - w)))
    return {**example, "x": x, "bright": bright, "count": np.float32(bright.sum())}
