"""The variables of a `UniRepLKNet` by its sizes alone: no network is traced to know what its tensors are called."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from unireplknet_jax.nn.block import BRANCHES

STEM_CONV1 = ("downsample_layers_0", "conv1")  # the one layer between two sizes of maps
_STEM_HALVINGS = 2  # of the input before the first stage; one more before each of the others


def map_size(image_size: Sequence[int], stage: int) -> tuple[int, ...]:
    """(h, w) of a stage's maps for images of (h, w): every strided convolution halves and rounds up."""
    factor = 2 ** (_STEM_HALVINGS + stage)
    return tuple(-(-side // factor) for side in image_size)


def trunk_of(model: nn.Module) -> Any:
    """The `UniRepLKNet` in a network, which is one itself or holds one that it calls "backbone"."""
    return getattr(model, "backbone", model)


def with_trunk(model: nn.Module, trunk: nn.Module) -> Any:
    """The network with another `UniRepLKNet` in it, or that one where the network is no more."""
    return trunk if trunk_of(model) is model else model.clone(backbone=trunk)


def abstract_variables(model: nn.Module, *inputs: Any) -> dict[str, Any]:
    """The variables of a `UniRepLKNet`, or of a network around one called "backbone", as `jax.ShapeDtypeStruct`s.

    inputs: of the network around it, arrays or shapes, by default a small image; a `UniRepLKNet` by itself needs none.
    """
    trunk = trunk_of(model)
    if trunk is model:
        return variable_shapes(model)
    inputs = inputs or (jax.ShapeDtypeStruct((1, 32, 32, model.in_chans), jnp.float32),)
    inner = variable_shapes(trunk)
    outline = _Outline(trunk.dims, trunk.in_chans)
    around = jax.eval_shape(model.clone(backbone=outline).init, jax.random.key(0), *inputs)
    names = sorted({*around, *inner})
    return {name: around.get(name, {}) | ({"backbone": inner[name]} if name in inner else {}) for name in names}


class _Outline(nn.Module):
    """What the layers around a trunk see of it: the shapes of its maps."""

    dims: tuple[int, ...]
    in_chans: int
    dtype: Any = jnp.float32

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return self.features(x, train)[-1]

    def features(self, x: jax.Array, train: bool = False, sizes: jax.Array | None = None) -> tuple[jax.Array, ...]:
        del train, sizes
        n, *size, _ = x.shape
        return tuple(jnp.zeros((n, *map_size(size, i), dim), x.dtype) for i, dim in enumerate(self.dims))


def variable_shapes(model: nn.Module) -> dict[str, Any]:
    """{"params": ..., "batch_stats": ...} of `jax.ShapeDtypeStruct`, just as `model.init` returns arrays.

    model: a `UniRepLKNet` with any options. A merged one has no "batch_stats".
    """
    params, stats, width = {}, {}, model.dims[0]
    params["downsample_layers_0"] = {
        "conv1": _kernel(3, 3, model.in_chans, width // 2),
        "norm1": _norm(width // 2),
        "conv2": _kernel(3, 3, width // 2, width),
        "norm2": _norm(width),
    }
    for i, (before, width) in enumerate(zip(model.dims, model.dims[1:], strict=False), 1):
        params[f"downsample_layers_{i}"] = {"conv": _kernel(3, 3, before, width), "norm": _norm(width)}
    for i, (width, kernel_sizes) in enumerate(zip(model.dims, model.kernel_sizes, strict=True)):
        for j, kernel_size in enumerate(kernel_sizes):
            params[f"stages_{i}_{j}"], stats[f"stages_{i}_{j}"] = _block(model, width, kernel_size)
        if model.output_norms:
            params[f"norm{i}"] = _norm(width)
    if model.num_classes is not None:
        params |= {"norm": _norm(width), "head": _kernel(width, model.num_classes)}
    stats = {name: below for name, below in stats.items() if below}
    tree = {"params": params} | ({"batch_stats": stats} if stats else {})
    return jax.tree.map(lambda leaf: leaf, tree)  # in the order of names, as every tree that JAX has seen


def _block(model: nn.Module, width: int, kernel_size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(params, batch_stats) of a block."""
    params: dict[str, Any] = {
        "se": {"down": _kernel(1, 1, width, width // 4), "up": _kernel(1, 1, width // 4, width)},
        "pwconv1": _kernel(width, 4 * width),
        "grn": {name: _leaf(1, 1, 1, 4 * width) for name in (("gamma",) if model.deploy else ("gamma", "beta"))},
        "pwconv2": _kernel(4 * width, width, bias=model.deploy),
    }
    stats = {}
    if not model.deploy:
        params["pwconv2_bn"], stats["pwconv2_bn"] = _norm(width), _statistics(width)
        if model.layer_scale_init and model.layer_scale_init > 0:
            params["gamma"] = _leaf(width)
    if kernel_size:
        if not model.deploy:
            params["norm"], stats["norm"] = _norm(width), _statistics(width)
        kernel = _kernel(kernel_size, kernel_size, 1, width, bias=model.deploy)
        params["dwconv"] = {"lk_origin": kernel} if kernel_size in BRANCHES else kernel
    if kernel_size in BRANCHES and not model.deploy:
        branches = {f"dil_conv_k{k}_{r}": _kernel(k, k, 1, width, bias=False) for k, r in BRANCHES[kernel_size]}
        norms = ["origin_bn", *(name.replace("conv", "bn") for name in branches)]
        params["dwconv"] |= branches | {name: _norm(width) for name in norms}
        stats["dwconv"] = {name: _statistics(width) for name in norms}
    return params, stats


def _leaf(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _kernel(*shape: int, bias: bool = True) -> dict[str, Any]:
    return {"kernel": _leaf(*shape)} | ({"bias": _leaf(shape[-1])} if bias else {})


def _norm(width: int) -> dict[str, Any]:
    return {"scale": _leaf(width), "bias": _leaf(width)}


def _statistics(width: int) -> dict[str, Any]:
    return {"mean": _leaf(width), "var": _leaf(width)}
