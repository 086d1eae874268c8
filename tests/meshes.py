"""Meshes of devices that this machine need not have."""

from jax._src.mesh import AbstractDevice
from jax.sharding import AbstractMesh, AxisType

from unireplknet_jax.ops.batch import BATCH_AXES


def mesh_of(platform):
    """A mesh of 8 devices of a platform, for `jax.sharding.use_abstract_mesh`."""
    device = AbstractDevice(device_kind=platform, num_cores=None, platform=platform)
    return AbstractMesh((8, 1), BATCH_AXES, (AxisType.Auto,) * 2, abstract_device=device)
