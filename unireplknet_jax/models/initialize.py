"""Initial variables of a `UniRepLKNet`, all drawn at once (original: `_init_weights` and `head_init_scale`)."""

import hashlib
from collections.abc import Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from unireplknet_jax.models.shapes import variable_shapes
from unireplknet_jax.nn.layers import KERNEL_STDDEV
from unireplknet_jax.ops.random import can_draw, draw_normals

_CONSTANTS = {"scale": 1.0, "var": 1.0, "bias": 0.0, "mean": 0.0, "beta": 0.0}


def drawn_variables(model: nn.Module, key: jax.Array, place: Sequence[Any] = ()) -> dict[str, Any] | None:
    """{"params", "batch_stats"} with the numbers that the initializers of the layers give; None: leave it to Flax.

    key: of the "params" stream; place: names of the modules around the model. Flax would have a generator compiled for
    every kernel, half a minute for the smallest size. ops.random draws the same numbers in seconds.
    """
    if not can_draw(key) or not all(isinstance(name, str) for name in place):
        return None
    shapes = flax.traverse_util.flatten_dict(variable_shapes(model))
    kernels = [path for path in shapes if path[-1] == "kernel"]
    folds = jnp.asarray([_fold((*place, *path[1:-1])) for path in kernels], jnp.uint32)
    drawn = draw_normals(key, folds, tuple(shapes[path].shape for path in kernels))
    values = {}
    for path, normal in zip(kernels, drawn, strict=True):
        kernel = normal * KERNEL_STDDEV
        values[path] = model.head_init_scale * kernel if path == ("params", "head", "kernel") else kernel
    for path in shapes.keys() - values.keys():
        constant: Any = _CONSTANTS.get(path[-1])
        if constant is None:  # gamma: of GRN, or the layer scale
            constant = 0.0 if path[-2] == "grn" else model.layer_scale_init
        values[path] = jnp.full(shapes[path].shape, constant, jnp.float32)
    return flax.traverse_util.unflatten_dict(values)


def _fold(modules: Sequence[str]) -> int:
    """What Flax folds into the key of a stream for the first draw of a module (`flax.core.scope.Scope.make_rng`)."""
    digest = hashlib.sha1()
    for name in modules:
        digest.update(_separator() + name.encode())
    digest.update(_separator() + b"\1")
    return int.from_bytes(digest.digest()[:4], "big")


def _separator() -> bytes:
    return b"\0" if flax.config.flax_fix_rng_separator else b""
