"""What a model costs, counted without running it: parameters and multiply-accumulates."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import flax
import jax

from unireplknet_jax.models.shapes import STEM_CONV1, map_size, variable_shapes

if TYPE_CHECKING:
    from unireplknet_jax.models.unireplknet import UniRepLKNet


def count_parameters(variables: Mapping[str, Any]) -> int:
    """The number of trained values in {"params": ...} (arrays or shapes); batch statistics do not count."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def program_macs(function: Callable[..., Any], *args: Any) -> int:
    """The multiply-accumulates of any traceable function, of zeros, too; args: arrays or their shapes."""
    return _macs(jax.make_jaxpr(function)(*args).jaxpr)


def costs(model: UniRepLKNet, image_size: int) -> tuple[int, int]:
    """(parameters, multiply-accumulates for one square image) of a `UniRepLKNet`, either form, by its sizes alone.

    Multiply-accumulates are those of all convolutions and matrix products. Every tap counts for every output, padding
    or not, as in the published numbers, which call this FLOPs; taps that see nothing but padding are never computed and
    do not count.
    """
    variables = variable_shapes(model)
    kernels = flax.traverse_util.flatten_dict(variables["params"]).items()
    macs = sum(_macs_of_kernel(path, leaf.shape, image_size) for path, leaf in kernels if path[-1] == "kernel")
    return count_parameters(variables), macs


def _macs_of_kernel(path: Sequence[str], shape: tuple[int, ...], image_size: int) -> int:
    module, within = path[0], path[1]
    if module == "head" or within == "se":
        return math.prod(shape)
    stage = int(re.findall(r"\d+", module)[0])  # of stages_I_J and downsample_layers_I
    side = map_size((image_size, image_size), stage)[0] if path[:2] != STEM_CONV1 else -(-image_size // 2)
    if within == "dwconv":
        dilation = int(path[2].rsplit("_", 1)[1]) if path[2].startswith("dil_conv_") else 1
        taps = min(shape[0], 2 * ((side - 1) // dilation) + 1) ** 2
        return taps * shape[-1] * side**2
    return math.prod(shape) * side**2


def _macs(jaxpr: Any) -> int:
    return sum(_macs_of_equation(equation) for equation in jaxpr.eqns)


def _macs_of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        per_output = math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
        return per_output * math.prod(equation.outvars[0].aval.shape)
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lengths = equation.invars[0].aval.shape
        return math.prod(lengths[axis] for axis in contracted) * math.prod(equation.outvars[0].aval.shape)
    inner = [_macs(jaxpr) for jaxpr in _sub_jaxprs(params)]
    if name == "while" and any(inner):
        raise ValueError("a loop without a fixed number of rounds cannot be counted; write it as a scan.")
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _sub_jaxprs(params: Mapping[str, Any]) -> Iterator[Any]:
    """The programs inside an equation (of jit, remat, custom_vjp_call, closed_call, scan, cond, ...)."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item
