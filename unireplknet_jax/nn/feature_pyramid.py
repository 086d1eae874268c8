"""A feature pyramid: five maps of one width, at strides 4 to 64, of the four maps of a backbone.

Paper: Lin et al., "Feature Pyramid Networks for Object Detection", 2017. Original: FPN of mmdetection 2.28.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from unireplknet_jax.nn.layers import parameter
from unireplknet_jax.ops.layers import linear
from unireplknet_jax.ops.resize import conv3x3
from unireplknet_jax.ops.valid import only_valid, sizes_of_maps, valid_mask

FRAME = 32  # pictures are seen in frames whose sides are multiples of this: each map is then twice the next one
xavier = nn.initializers.glorot_uniform()


class Conv(nn.Module):
    """A convolution with bias; kernel_size: 1 or 3, stride 1, zero "same" padding."""

    features: int
    kernel_size: int = 1
    kernel_init: nn.initializers.Initializer = xavier
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (n, h, w, c) -> (n, h, w, features) of `dtype`."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = parameter(self, "kernel", self.kernel_init, shape).astype(self.dtype)
        bias = parameter(self, "bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        x = x.astype(self.dtype)
        return linear(x, kernel[0, 0], bias) if self.kernel_size == 1 else conv3x3(x, kernel) + bias


def frames(sizes: jax.Array) -> jax.Array:
    """The sizes (n, 2) of the frames of pictures: up to the next multiple of 32, as the original pads pictures."""
    return -(-sizes // FRAME) * FRAME


def valid_masks(sizes: jax.Array | None, maps: Sequence[jax.Array]) -> list[jax.Array | None]:
    """Where frames (n, 2) are in each map (n, h, w, c), from stride 4 on: (n, h, w, 1) bool; None: everywhere."""
    own = sizes_of_maps(sizes, len(maps))
    if own is None:
        return [None] * len(maps)
    return [valid_mask(size, x.shape[1:3]) for size, x in zip(own, maps, strict=True)]


class FeaturePyramid(nn.Module):
    """Each map is narrowed, gets the next coarser one enlarged on top, and goes through a 3x3 convolution."""

    channels: int = 256
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], sizes: jax.Array | None = None) -> tuple[jax.Array, ...]:
        """maps: 4 (n, h, w, c), each exactly half as long as the one before -> 5 (n, h, w, channels), the last one half
        as long again, rounded up.

        sizes: (n, 2), the frames of the pictures in the network's input, beyond which the maps hold zeros, as the
        results do; None: all of it.
        """

        def conv(name: str, kernel_size: int, x: jax.Array, valid: jax.Array | None) -> jax.Array:
            return only_valid(Conv(self.channels, kernel_size, dtype=self.dtype, name=name)(x), valid)

        valid = valid_masks(sizes, maps)
        laterals = [conv(f"lateral_convs_{i}", 1, x, valid[i]) for i, x in enumerate(maps)]
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] += _doubled(laterals[i])
        found = [conv(f"fpn_convs_{i}", 3, x, valid[i]) for i, x in enumerate(laterals)]
        return (*found, found[-1][:, ::2, ::2])


def _doubled(x: jax.Array) -> jax.Array:
    """(n, h, w, c) -> (n, 2 h, 2 w, c), every value four times."""
    n, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)
