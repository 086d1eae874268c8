"""Re-parameterization as a pure function: training variables in, merged-kernel inference variables out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from unireplknet_jax.models.program import compile_program
from unireplknet_jax.models.shapes import trunk_of, with_trunk
from unireplknet_jax.ops.fold import fold_batch_norm, merge_branch
from unireplknet_jax.ops.layers import BATCH_NORM_EPS

if TYPE_CHECKING:
    import flax.linen as nn


def reparameterize(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Merge every UniRepLKNet block of a variable tree into its inference form.

    variables: {"params": ..., "batch_stats": ...} of any module that contains UniRepLKNet blocks, at any depth ->
    variables for the same module with deploy=True. Nothing is mutated; works under `jax.jit` and `jax.eval_shape`.
    Folded tensors are computed and returned in float32 at least, whatever the storage dtype, because rounding them
    to bfloat16 again would change the network; all others pass through untouched. Batch statistics that belong to no
    block are kept. Paper section 3.1; original: `reparameterize_unireplknet`.
    Raises ValueError if the tree holds no block or its blocks are merged already.
    """
    if not hasattr(variables, "items") or "params" not in variables:
        raise ValueError('variables must be a dict with "params" and "batch_stats", as returned by init.')
    blocks = list(_blocks(variables["params"]))
    if not blocks:
        raise ValueError("there is no UniRepLKNet block in these variables, so nothing can be merged.")
    if all("pwconv2_bn" not in block for block in blocks):
        raise ValueError("these variables are already merged: apply them with model.clone(deploy=True).")
    if "batch_stats" not in variables:
        raise ValueError('merging needs the running statistics: give the whole {"params", "batch_stats"} tree.')
    try:
        params, stats = _merge_tree(variables["params"], variables["batch_stats"])
    except KeyError as missing:
        raise ValueError(
            f"a block cannot be merged: its parameters or its running statistics lack {missing}."
        ) from None
    merged = {**variables, "params": params, "batch_stats": stats}
    if not stats:
        del merged["batch_stats"]
    return merged


def has_blocks(variables: Mapping[str, Any]) -> bool:
    """Whether there is a UniRepLKNet block in a variable tree, that is something to merge."""
    return any(True for _ in _blocks(variables["params"]))


def is_merged(variables: Mapping[str, Any]) -> bool:
    """Whether the blocks of a variable tree (arrays or shapes) are in inference form."""
    return all("pwconv2_bn" not in block for block in _blocks(variables["params"]))


def merge_error(model: nn.Module, variables: Mapping[str, Any], merged: Mapping[str, Any], *inputs: Any) -> float:
    """The largest difference between the outputs of both forms, relative to the largest output; 0 is perfect.

    model: a UniRepLKNet in either form, or a network around one that it calls "backbone"; inputs: what it is applied
    to, images (n, h, w, c) for most.
    Outputs are the logits, every feature map of a model without classifier, or those of a network's "pyramid", where
    what comes after them chooses among boxes and takes others for a difference in the last digit. Computed in float32
    whatever the model's dtype; NaN where an output is not finite.
    """
    without_head = "features" if getattr(model, "num_classes", 0) is None else None
    method = "pyramid" if hasattr(model, "pyramid") else without_head
    with jax.default_matmul_precision("highest"):
        outputs = []
        for deploy, tree in ((False, variables), (True, merged)):
            apply = jax.jit(functools.partial(_in_form(model, deploy).apply, method=method))
            what = f"the {'merged' if deploy else 'training'} form"
            outputs.append(compile_program(apply, tree, *inputs, what=what, quick=True)(tree, *inputs))
        before, after = outputs

    def error(a: jax.Array, b: jax.Array) -> jax.Array:
        largest = jnp.max(jnp.abs(a))
        return jnp.max(jnp.abs(a - b)) / jnp.where(largest > 0, largest, 1.0)

    return float(jnp.max(jnp.stack(jax.tree.leaves(jax.tree.map(error, before, after)))))


def _in_form(model: nn.Module, deploy: bool) -> nn.Module:
    """The model that computes in float32 in training or in merged form."""
    return with_trunk(model, trunk_of(model).clone(deploy=deploy, dtype=jnp.float32))


def _is_block(node: Mapping[str, Any]) -> bool:
    return "pwconv1" in node and "grn" in node and "pwconv2" in node


def _blocks(node: Any) -> Iterator[Mapping[str, Any]]:
    if not hasattr(node, "items"):
        return
    if _is_block(node):
        yield node
    else:
        for child in node.values():
            yield from _blocks(child)


def _merge_tree(params: Mapping[str, Any], stats: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(params, stats) with every block merged; stats keeps what belongs to no block."""
    if _is_block(params) and "pwconv2_bn" in params:
        return _merge_block(params, stats), {}
    merged, rest = {}, {}
    for name, child in params.items():
        below = stats.get(name, {})
        merged[name], left = _merge_tree(child, below) if hasattr(child, "items") else (child, below)
        if left:
            rest[name] = left
    rest.update({name: below for name, below in stats.items() if name not in params})
    return merged, rest


def _merge_block(params: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, Any]:
    """One block in inference form; what is not folded passes through."""
    kept = {"se": params["se"], "pwconv1": params["pwconv1"], "grn": {"gamma": params["grn"]["gamma"]}}
    folded = {name: tree for name, tree in params.items() if name not in ("se", "pwconv1")}
    return kept | _where_the_arrays_are(_fold_block, folded, stats)


def _fold_block(params: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, Any]:
    merged = {"pwconv2": _merge_second_linear(params, stats["pwconv2_bn"])}
    return merged | ({"dwconv": _merge_depthwise(params, stats)} if "dwconv" in params else {})


def _where_the_arrays_are(function: Callable[..., Any], *trees: Any) -> Any:
    """function(*trees) by NumPy for NumPy arrays and for those of one device, on which the results then are.

    JAX would compile some fifty programs for what takes milliseconds, or one large one under `jax.jit`. Other arrays
    (tracers, arrays on a mesh) are JAX's business, and so are the NumPy arrays among them.
    """
    arrays = [leaf for leaf in jax.tree.leaves(trees) if isinstance(leaf, jax.Array)]
    if not arrays:
        return function(*trees)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in arrays):
        return function(*jax.tree.map(jnp.asarray, trees))
    places = {leaf.sharding for leaf in arrays if leaf.committed}
    if len(places) > 1 or any(len(leaf.devices()) > 1 for leaf in arrays):
        return function(*jax.tree.map(jnp.asarray, trees))
    return jax.device_put(function(*jax.device_get(trees)), next(iter(places), None))


def _merge_depthwise(params: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, Any]:
    """The depthwise part, (k, k, 1, c) with a bias: branches into the large kernel, then the block's norm into both."""
    dwconv = params["dwconv"]
    if "lk_origin" not in dwconv:
        kernel, bias = _fold(dwconv["kernel"], None, params["norm"], stats["norm"])
        return {"kernel": kernel, "bias": bias}
    kernel, bias = _fold(dwconv["lk_origin"]["kernel"], None, dwconv["origin_bn"], stats["dwconv"]["origin_bn"])
    for name in sorted(name for name in dwconv if name.startswith("dil_conv_")):
        dilation = int(name.rsplit("_", 1)[1])
        norm = name.replace("dil_conv_", "dil_bn_")
        branch, offset = _fold(dwconv[name]["kernel"], None, dwconv[norm], stats["dwconv"][norm])
        kernel, bias = merge_branch(kernel, branch, dilation), bias + offset
    kernel, bias = _fold(kernel, bias, params["norm"], stats["norm"])
    return {"lk_origin": {"kernel": kernel, "bias": bias}}


def _merge_second_linear(params: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, Any]:
    """(4c, c) and (c,): GRN's beta, the batch norm and the layer scale folded into the second linear layer."""
    weight = _wide(params["pwconv2"]["kernel"])
    beta = _wide(params["grn"]["beta"]).reshape(-1)
    bias = (beta[:, None] * weight).sum(axis=0)  # not a product of matrices, whose precision is somebody's choice
    kernel, bias = _fold(weight, bias, params["pwconv2_bn"], stats)
    if "gamma" in params:
        gamma = _wide(params["gamma"])
        kernel, bias = kernel * gamma, bias * gamma
    return {"kernel": kernel, "bias": bias}


def _fold(kernel: Any, bias: Any, norm: Mapping[str, Any], stats: Mapping[str, Any]) -> tuple[Any, Any]:
    values = dict(scale=norm["scale"], shift=norm["bias"], mean=stats["mean"], var=stats["var"])
    return fold_batch_norm(
        _wide(kernel), bias, **{name: _wide(value) for name, value in values.items()}, eps=BATCH_NORM_EPS
    )


def _wide(x: Any) -> Any:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
