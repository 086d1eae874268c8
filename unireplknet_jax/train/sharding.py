"""The device mesh and where everything lives on it: a batch is split over both axes, parameters over `fsdp`."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from unireplknet_jax.ops.batch import BATCH_AXES, PARAMETER_AXIS, split_axis


def make_mesh(fsdp=1, devices=None):
    """A mesh (data, fsdp) over all devices; ValueError if their number is not a multiple of `fsdp`.

    In the order of the processes, on which the rows of a global batch rely: `jax.make_mesh` would follow the wires of a
    TPU slice and interleave them.
    """
    devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(f"mesh.fsdp={fsdp} does not divide the {len(devices)} devices of this run.")
    shape = (len(devices) // fsdp, fsdp)
    return Mesh(np.array(devices).reshape(shape), BATCH_AXES, axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh):
    """The first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def micro_batch_sharding(mesh):
    """(micro-batches, n, ...): the second axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))


def replicated(mesh):
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(mesh, shapes):
    """A sharding for every leaf: its largest axis that `fsdp` divides is split over it; without one, replicated."""
    size = mesh.shape[PARAMETER_AXIS]

    def place(leaf):
        axis = split_axis(leaf.shape, size)
        if axis is None:
            return replicated(mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, PARAMETER_AXIS, *[None] * (leaf.ndim - axis - 1)))

    return jax.tree.map(place, shapes)


def gather(mesh, tree):
    """Inside jit: whole parameters at the point of use; otherwise the partitioner reshards activations instead."""
    return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def to_devices(sharding, batch, names=None):
    """This process's rows {name: array} as global arrays; names: those that go there, None: all arrays but ids."""
    if names is None:
        names = [name for name, rows in batch.items() if isinstance(rows, np.ndarray) and name != "id"]
    return {name: jax.make_array_from_process_local_data(sharding, batch[name]) for name in names if name in batch}


def own_rows(tree):
    """This process's rows of global arrays that are split like a batch, as NumPy: nothing crosses processes."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return jax.tree.map(_own_rows, tree)


def _own_rows(array):
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}  # of several axes, once
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
