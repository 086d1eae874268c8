"""Which mesh axes split a batch, and how a function that the partitioner cannot split runs shard by shard."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

BATCH_AXES = ("data", "fsdp")


def batch_axes():
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


def batch_shards(batch):
    """Into how many parts the context mesh splits a batch of so many rows; 1 for one that it does not divide."""
    shape = jax.sharding.get_abstract_mesh().shape
    shards = math.prod(shape[name] for name in batch_axes())
    return 1 if batch % shards else shards


def over_batch_shards(function, batched, shared, *, sum_output=False):
    """function(*batched, *shared), each device computing on its own rows of `batched`; no data crosses devices.

    batched: arrays whose first axis is the batch; shared: arrays every device needs whole. The result is split like
    the batch, or, with sum_output, added up over the shards. Without a context mesh, or with a batch that the mesh
    does not divide (initialization with one image, say), the function is called as it is.
    """
    axes = batch_axes()
    if batch_shards(batched[0].shape[0]) == 1:
        return function(*batched, *shared)

    def local(*operands):
        result = function(*operands)
        return jax.lax.psum(result, axes) if sum_output else result

    split, whole = PartitionSpec(axes), PartitionSpec()
    return jax.shard_map(
        local,
        in_specs=(split,) * len(batched) + (whole,) * len(shared),
        out_specs=whole if sum_output else split,
        axis_names=set(axes),
        check_vma=False,  # else a transpose inside `function` adds up over the mesh on its own, before `local` does
    )(*batched, *shared)


def varying_alike(*arrays):
    """The arrays as they are, each varying over all mesh axes over which one of them does inside a `jax.shard_map`.

    What follows then is the business of one device; the gradient of an array that did not vary is added up here.
    """
    if AxisType.Manual not in jax.sharding.get_abstract_mesh().axis_types:
        return arrays
    values = [jax.lax.stop_gradient(array.ravel()[0]) for array in arrays]
    return tuple(functools.reduce(lambda kept, value: jnp.where(False, value, kept), values, a) for a in arrays)
