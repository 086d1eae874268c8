"""The two heads of a stage of Cascade Mask R-CNN: what is in a region and where exactly, and which pixels it covers.

Papers: Cai and Vasconcelos, "Cascade R-CNN", 2018; He et al., "Mask R-CNN", 2017. Original: Shared4Conv1FCBBoxHead and
FCNMaskHead of mmdetection 2.28.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from unireplknet_jax.nn.feature_pyramid import Conv, xavier
from unireplknet_jax.nn.layers import parameter
from unireplknet_jax.nn.upernet import ConvNormRelu, kernel_init
from unireplknet_jax.ops.boxes import decode
from unireplknet_jax.ops.layers import linear

CONVS = 4
BOX_BINS, MASK_BINS = 7, 14  # cells of a region, in each direction, that the heads look at
# What the deltas of each stage are divided by, so that they have about the same spread though boxes get better.
STDS = np.array(((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)), np.float32)


class _Dense(nn.Module):
    features: int
    kernel_init: nn.initializers.Initializer
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (..., c) -> (..., features) of `dtype`."""
        kernel = parameter(self, "kernel", self.kernel_init, (x.shape[-1], self.features)).astype(self.dtype)
        bias = parameter(self, "bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return linear(x.astype(self.dtype), kernel, bias)


class BoxHead(nn.Module):
    """Four 3x3 convolutions with batch norm, a dense layer, and from it class logits and the deltas of each class."""

    num_classes: int
    channels: int = 256
    features: int = 1024
    dtype: DTypeLike = jnp.float32
    bn_group: int | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, valid: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """x: (n, r, 7, 7, c), the regions of n pictures -> logits (n, r, classes + 1), background last, and deltas
        (n, r, classes, 4), both in float32.

        valid: (n, r), the rows that are regions: batch statistics are taken over them alone. None: all.
        bn_group: of pictures that share batch statistics; None: all, as the original's synchronized batch norm.
        """
        n, r, h, w, c = x.shape
        inside = None if valid is None else jnp.broadcast_to(valid.reshape(-1, 1, 1, 1), (n * r, h, w, 1))
        y = x.reshape(n * r, h, w, c)
        for i in range(CONVS):
            layer = ConvNormRelu(
                self.channels, 3, self.dtype, self.bn_group and r * self.bn_group, name=f"shared_convs_{i}"
            )
            y = layer(y, train=train, valid=inside)
        # The original's maps have their channels first, and its dense layer takes their values in that order.
        y = jnp.transpose(y, (0, 3, 1, 2)).reshape(n, r, -1)
        y = nn.relu(_Dense(self.features, xavier, self.dtype, name="shared_fcs_0")(y)).astype(jnp.float32)
        logits = _Dense(self.num_classes + 1, nn.initializers.normal(stddev=0.01), name="fc_cls")(y)
        deltas = _Dense(4 * self.num_classes, nn.initializers.normal(stddev=0.001), name="fc_reg")(y)
        return logits, deltas.reshape(n, r, self.num_classes, 4)


class MaskHead(nn.Module):
    """Four 3x3 convolutions, a transposed one that doubles the map, and a 1x1 convolution to a logit of each class."""

    num_classes: int
    channels: int = 256
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array) -> jax.Array:
        """x: (n, r, 14, 14, c), the regions of n pictures, and labels: (n, r) -> logits (n, r, 28, 28) in float32.

        The logits are those of each region's label: the others, which the original computes, are nowhere asked for.
        """
        n, r, h, w, c = x.shape
        y = x.reshape(n * r, h, w, c)
        for i in range(CONVS):
            y = nn.relu(Conv(self.channels, 3, kernel_init, self.dtype, name=f"convs_{i}")(y))
        y = nn.relu(_Doubling(self.channels, self.dtype, name="upsample")(y))
        logits = _LogitsAtLabels(self.num_classes, name="conv_logits")(y, labels.reshape(-1))
        return logits.reshape(n, r, 2 * h, 2 * w)


class _Doubling(nn.Module):
    """A transposed 2x2 convolution of stride 2: every position becomes four, each by a matrix of its own."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (n, h, w, c) -> (n, 2 h, 2 w, features) of `dtype`; kernel: (2, 2, features, c)."""
        n, h, w, c = x.shape
        kernel = parameter(self, "kernel", kernel_init, (2, 2, self.features, c)).astype(self.dtype)
        bias = parameter(self, "bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        y = jnp.einsum("nhwc,yxdc->nhywxd", x.astype(self.dtype), kernel)
        return y.reshape(n, 2 * h, 2 * w, self.features) + bias


class _LogitsAtLabels(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array) -> jax.Array:
        """x: (r, h, w, c), labels: (r,) -> (r, h, w) in float32: what the 1x1 convolution gives for these classes."""
        kernel = parameter(self, "kernel", kernel_init, (1, 1, x.shape[-1], self.num_classes))
        bias = parameter(self, "bias", nn.initializers.zeros, (self.num_classes,))
        y = jnp.einsum("rhwc,cr->rhw", x.astype(jnp.float32), jnp.take(kernel[0, 0], labels, axis=1))
        return y + jnp.take(bias, labels)[:, None, None]


def refined(rois: jax.Array, deltas: jax.Array, labels: jax.Array, stds: np.ndarray, sizes: jax.Array) -> jax.Array:
    """rois (n, r, 4) moved by the deltas (n, r, classes, 4) of their labels (n, r), clipped to the pictures."""
    own = jnp.take_along_axis(deltas, labels[..., None, None], axis=2)[:, :, 0]
    return jax.lax.stop_gradient(decode(rois, own, stds, sizes[:, None]))
