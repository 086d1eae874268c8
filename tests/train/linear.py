"""The smallest task there is, for tests of what trains it: y = x @ kernel."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from unireplknet_jax.tasks.base import Spec, Task


@dataclasses.dataclass(frozen=True)
class Linear(Task):
    """Rows x (n, 4) -> (n, 1); reports a random number drawn in the loss, and counts examples by their weight."""

    def module(self, deploy=False):
        return nn.Dense(1, use_bias=False)

    def specs(self, train):
        return (Spec({"x": jax.ShapeDtypeStruct((4,), jnp.float32)}, {"y": jax.ShapeDtypeStruct((), jnp.float32)}),)

    def inputs(self, batch):
        return (batch["x"],)

    def loss(self, apply, variables, batch, rng):
        errors = jnp.square(apply(variables, batch["x"])[:, 0] - batch["y"])
        scalars = {"loss": (jnp.sum(errors), errors.size), "drawn": (jax.random.uniform(rng), 1)}
        return jnp.mean(errors), {"batch_stats": {}, "scalars": scalars}

    def predict(self, apply, variables, inputs):
        return {"y": apply(variables, *self.inputs(inputs))}


ADAMW = ConfigDict(
    {
        "name": "adamw",
        "decay_rule": "matrices",
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.05,
        "weight_decay_end": None,
        "layer_decay": 1.0,
        "layer_groups": 12,
        "clip_norm": 0.0,
    }
)


def adamw(**fields):
    """ADAMW with other fields."""
    return ConfigDict(ADAMW.to_dict() | fields)
