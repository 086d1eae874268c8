"""Which mesh axes split a batch and parameters, and how what the partitioner cannot split runs shard by shard."""

import functools
import math
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import AxisType, PartitionSpec

BATCH_AXES = ("data", "fsdp")
PARAMETER_AXIS = "fsdp"
SMALL = 2**12  # an array of fewer elements is never split


def split_axis(shape: Sequence[int], parts: int) -> int | None:
    """The axis along which parameters of a shape are split into parts: the longest that divides; None: not at all."""
    axes = [axis for axis, length in enumerate(shape) if length % parts == 0]
    if parts == 1 or not axes or math.prod(shape) < SMALL:
        return None
    return max(axes, key=lambda axis: shape[axis])


def batch_axes() -> tuple[str, ...]:
    """The axes of the context mesh (`jax.set_mesh`) that split a batch and are left to the partitioner, as a tuple.

    Raises ValueError if an axis has type Explicit, which `jax.make_mesh` gives by default.
    """
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if AxisType.Explicit in types.values():
        raise ValueError(
            f"the mesh axes {mesh.axis_names} are of type Explicit, which depthwise convolution does not support; "
            "make the mesh with axis_types=(jax.sharding.AxisType.Auto,) * number of axes."
        )
    return tuple(name for name in BATCH_AXES if types.get(name) == AxisType.Auto)


def mesh_platform() -> str | None:
    """The platform ("cpu", "gpu", "tpu") of the context mesh's devices; None without such a mesh or its devices."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return device and device.platform


# What a program is lowered for -> the platform of its devices.
PLATFORMS = types.MappingProxyType({"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"})


def by_platform(*operands: jax.Array, default: Callable[..., Any], **forms: Callable[..., Any]) -> Any:
    """forms["cpu", "cuda" or "tpu"](*operands) on that platform, default(*operands) on one that has no form.

    A context mesh of devices says what is lowered for; without one the forms of all platforms are traced.
    """
    known = mesh_platform()
    if known is None:
        return jax.lax.platform_dependent(*operands, default=default, **forms)
    named = {PLATFORMS[target]: form for target, form in forms.items()}
    return named.get(known, default)(*operands)


def batch_shards(batch: int) -> int:
    """Into how many parts the context mesh splits a batch of so many rows."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape[name] for name in _dividing(batch_axes(), batch))


def _dividing(axes: Sequence[str], batch: int) -> tuple[str, ...]:
    """Those of the axes, the first ones preferred, that together divide a batch of so many rows, as a tuple."""
    shape = jax.sharding.get_abstract_mesh().shape
    found: tuple[str, ...] = ()
    for name in axes:
        if batch % math.prod(shape[other] for other in (*found, name)) == 0:
            found += (name,)
    return found


def over_batch_shards(
    function: Callable[..., jax.Array],
    batched: Sequence[jax.Array],
    shared: Sequence[jax.Array],
    *,
    sum_output: bool = False,
) -> jax.Array:
    """function(*batched, *shared), each device computing on its own rows of `batched`; no data crosses devices.

    batched: arrays whose first axis is the batch; shared: arrays every device needs whole. The result is split like
    the batch, or, with sum_output, added up over the shards. Along axes that do not divide the batch (initialization
    with one image, say) every device computes the same. Without a context mesh the function is called as it is.
    """
    axes = batch_axes()
    if not axes:
        return function(*batched, *shared)
    dividing = _dividing(axes, batched[0].shape[0])

    def local(*operands: jax.Array) -> jax.Array:
        result = function(*varying_alike(*operands))
        return jax.lax.psum(result, dividing) if sum_output else result

    split, whole = PartitionSpec(dividing), PartitionSpec()
    return jax.shard_map(
        local,
        in_specs=(split,) * len(batched) + (whole,) * len(shared),
        out_specs=whole if sum_output else split,
        axis_names=set(axes),
    )(*batched, *shared)


def of_examples(function: Callable[..., Any], batched: Sequence[Any], shared: Sequence[Any] = ()) -> Any:
    """function(*example, *shared) of every example of a batch, as jax.vmap, each device for its own examples.

    batched: trees of arrays whose first axis is the batch; shared: trees that every example needs whole, to which no
    gradient flows. Loops whose length depends on the data would otherwise ask all devices at every turn whether one of
    them goes on.
    """
    mapped = jax.vmap(function, in_axes=(0,) * len(batched) + (None,) * len(shared))
    axes, arguments = batch_axes(), (*batched, *shared)
    if not axes:
        return mapped(*arguments)
    split = PartitionSpec(_dividing(axes, jax.tree.leaves(batched)[0].shape[0]))
    specs = (split,) * len(batched) + (PartitionSpec(),) * len(shared)
    return jax.shard_map(mapped, in_specs=specs, out_specs=split, axis_names=set(axes), check_vma=False)(*arguments)


def rows(x: jax.Array) -> jax.Array:
    """x: (n, h, w, c) -> (n * h * w, c)."""
    return x.reshape(-1, x.shape[-1])


def row_major(x: jax.Array) -> jax.Array:
    """x (n, h, w, c) as it is, its `rows` one after the other in memory, where XLA might choose another order.

    On a mesh every device does so with its own examples: XLA's partitioner would gather them.
    """

    def pinned(x: jax.Array) -> jax.Array:
        return with_layout_constraint(rows(x), Layout((0, 1))).reshape(x.shape)

    return over_batch_shards(pinned, (x,), ())


def varying_alike(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays as they are, each varying over all mesh axes over which one of them does inside a `jax.shard_map`.

    What follows then is the business of one device; the gradient of an array that did not vary is added up here.
    """
    if AxisType.Manual not in jax.sharding.get_abstract_mesh().axis_types:
        return arrays
    values = [jax.lax.stop_gradient(array.ravel()[0].real) for array in arrays]

    def alike(array: jax.Array) -> jax.Array:
        return functools.reduce(lambda kept, value: jnp.where(False, value.astype(kept.dtype), kept), values, array)

    return tuple(map(alike, arrays))
