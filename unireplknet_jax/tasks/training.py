"""The network in training, as the losses of tasks apply it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from unireplknet_jax.tasks.base import Apply


def apply_training(
    apply: Apply, variables: Mapping[str, Any], inputs: Sequence[jax.Array], rng: jax.Array, method: str | None = None
) -> tuple[Any, Any]:
    """(output, new batch statistics) of a network in training, for `Task.loss`.

    method: of the network, which is called in place of itself.
    """
    named = {} if method is None else {"method": method}
    output, updates = apply(variables, *inputs, train=True, rngs={"dropout": rng}, mutable=["batch_stats"], **named)
    return output, updates.get("batch_stats", {})
