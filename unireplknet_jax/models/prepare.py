"""Preparing merged variables for inputs of one size: what layers compute from their parameters alone, done once."""

import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from unireplknet_jax.models.reparameterize import is_merged
from unireplknet_jax.models.shapes import map_size
from unireplknet_jax.ops.depthwise import prepare_kernel

_PLATFORMS = ("cpu", "cuda", "gpu", "rocm", "tpu")


def prepare(
    variables: Mapping[str, Any],
    image_size: int | Sequence[int],
    platform: str | None = None,
    dtype: DTypeLike = jnp.float32,
) -> dict[str, Any]:
    """Merged variables and a collection "prepared": depthwise kernels in the form that their convolution eats, and, for
    a dtype narrower than theirs, the parameters of all other convolutions and linear layers cast to it.

    variables: as `reparameterize` gives them, of any module with UniRepLKNet stages at any depth; nothing is mutated.
    image_size: of the inputs, an int or (h, w); the prepared variables serve no other. platform: where they will run
    ("cpu", "cuda", "gpu", "rocm" or "tpu"), None: jax's default backend. dtype: that of the computation. The numbers
    stay those of the merged form. Works under `jax.jit` and `jax.eval_shape` with the last three arguments fixed.
    Raises ValueError for variables that are not merged, for a size that is not positive, an unknown platform and a
    dtype that is not of floating-point numbers.
    """
    if not hasattr(variables, "items") or not hasattr(variables.get("params"), "items") or not is_merged(variables):
        raise ValueError('only merged variables can be prepared: {"params": ...} as reparameterize returns them.')
    if platform is not None and platform not in _PLATFORMS:
        raise ValueError(f"platform must be one of {', '.join(_PLATFORMS)}, or None, but is {platform!r}.")
    size, dtype = _height_and_width(image_size), _floating(dtype)
    prepared = _prepare_tree(variables["params"], size, platform or jax.default_backend(), dtype)
    return {**variables, "prepared": prepared}


def _floating(dtype: Any) -> jnp.dtype:
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise ValueError(f"dtype must be one of floating-point numbers, such as bfloat16, but is {dtype!r}.")
    return found


def _height_and_width(image_size: Any) -> tuple[int, ...]:
    sides = image_size if isinstance(image_size, tuple | list) else (image_size, image_size)
    try:
        size = tuple(operator.index(side) for side in sides if not isinstance(side, bool))
    except TypeError:
        size = ()
    if len(size) != 2 or len(sides) != 2 or min(size) < 1:
        raise ValueError(f"image_size must be a positive integer or two of them, but is {image_size!r}.")
    return size


def _prepare_tree(
    params: Mapping[str, Any],
    image_size: Sequence[int],
    platform: str,
    dtype: jnp.dtype,
    stage_size: Sequence[int] | None = None,
) -> dict[str, Any]:
    """The "prepared" tree of a parameter tree; stage_size: of the maps of its stage, None outside of stages."""
    prepared = {}
    for name, child in params.items():
        if not hasattr(child, "items"):
            continue
        stage = re.fullmatch(r"stages_(\d)_\d+", name)
        size = map_size(image_size, int(stage.group(1))) if stage else stage_size
        if re.fullmatch(r"downsample_layers_\d", name):
            layers = {inner: layer for inner, layer in child.items() if "kernel" in layer}
            below = {inner: cast for inner, layer in layers.items() if (cast := _cast_strided(layer, platform, dtype))}
        elif size and name in ("dwconv", "lk_origin") and "kernel" in child:
            forms = prepare_kernel(child["kernel"], size, dtype=dtype, platform=platform)
            below = forms | {key: value for key, value in _cast(child, dtype).items() if not forms or key != "kernel"}
        elif size and "kernel" in child:
            below = _cast(child, dtype)
        else:
            below = _prepare_tree(child, image_size, platform, dtype, size)
        if below:
            prepared[name] = below
    return prepared


def _cast(layer: Mapping[str, Any], dtype: jnp.dtype) -> dict[str, Any]:
    """The parameters of a linear layer that its computation would have to narrow."""
    return {name: value.astype(dtype) for name, value in layer.items() if value.dtype.itemsize > dtype.itemsize}


def _cast_strided(layer: Mapping[str, Any], platform: str, dtype: jnp.dtype) -> dict[str, Any]:
    """The same of a strided convolution, its kernel (3, 3, c, d) on a GPU in the order of axes that cuDNN takes."""
    cast = _cast(layer, dtype)
    if platform in ("cuda", "gpu") and "kernel" in cast:
        cast["OHWI"] = cast.pop("kernel").transpose(3, 0, 1, 2)
    return cast
