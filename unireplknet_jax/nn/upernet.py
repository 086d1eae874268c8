"""UPerNet: pyramid pooling on the last map, a feature pyramid over all, one map of class logits at stride 4.

Paper: Xiao et al., "Unified Perceptual Parsing for Scene Understanding", 2018. Original: UPerHead and FCNHead of
mmsegmentation 0.27, with the sizes of UniRepLKNet's segmentation/configs.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from unireplknet_jax.nn.layers import BatchNorm, parameter
from unireplknet_jax.ops.layers import linear
from unireplknet_jax.ops.resize import (
    Resized,
    adaptive_mean_matrix,
    bilinear_matrix,
    conv3x3,
    conv_of_resized,
    resize,
)
from unireplknet_jax.ops.valid import only_valid, sizes_of_maps, valid_mask

POOL_SCALES = (1, 2, 3, 6)
AUXILIARY_WEIGHT = 0.4  # of the auxiliary head's loss beside the decode head's
kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # Kaiming's for ReLU, as mmcv gives them
classifier_init = nn.initializers.normal(stddev=0.01)


class ConvNormRelu(nn.Module):
    """A convolution without bias, batch norm and ReLU: mmcv's ConvModule.

    kernel_size: 1 or 3, stride 1, zero "same" padding.
    """

    features: int
    kernel_size: int = 1
    dtype: DTypeLike = jnp.float32
    bn_group: int | None = None

    @nn.compact
    def __call__(self, *parts: jax.Array | Resized, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """parts: maps (n, h, w, c_i), or `Resized` ones that get this size, as one map -> (n, h, w, features).

        Each part has its own piece of the kernel: nothing is concatenated, and what is to be enlarged stays small.
        valid: (n, h, w, 1), the positions of the pictures in their canvas (`ops.valid`), beyond which the parts hold
        zeros, as the result does; None: all of it.
        """
        channels = [(part.x if isinstance(part, Resized) else part).shape[-1] for part in parts]
        kernel = _Kernel((self.kernel_size, self.kernel_size, sum(channels), self.features), name="conv")()
        kernel, ends = kernel.astype(self.dtype), [0, *itertools.accumulate(channels)]
        own = [
            self._convolve(part, kernel[:, :, start:end])
            for part, (start, end) in zip(parts, itertools.pairwise(ends), strict=True)
        ]
        y = sum(own[1:], start=own[0])
        return only_valid(nn.relu(BatchNorm(self.bn_group, name="bn")(y, train, valid)), valid)

    def _convolve(self, part: jax.Array | Resized, kernel: jax.Array) -> jax.Array:
        if isinstance(part, Resized):
            return conv_of_resized(part.x.astype(self.dtype), part.rows, part.columns, kernel)
        if self.kernel_size == 1:
            return linear(part.astype(self.dtype), kernel[0, 0])
        return conv3x3(part.astype(self.dtype), kernel)


class _Kernel(nn.Module):
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> jax.Array:
        return parameter(self, "kernel", kernel_init, self.shape)


class PixelClassifier(nn.Module):
    """A 1x1 convolution to class logits in float32, behind a dropout of whole channels."""

    num_classes: int
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """x: (n, h, w, c) -> (n, h, w, num_classes) in float32; draws from the "dropout" stream when training."""
        x = nn.Dropout(self.dropout, broadcast_dims=(1, 2), name="dropout")(x, deterministic=not train)
        kernel = parameter(self, "kernel", classifier_init, (1, 1, x.shape[-1], self.num_classes))
        bias = parameter(self, "bias", nn.initializers.zeros, (self.num_classes,))
        return linear(x.astype(jnp.float32), kernel[0, 0], bias)


class UPerHead(nn.Module):
    """The decode head: the four maps of a backbone -> class logits at the size of the first."""

    num_classes: int
    channels: int = 512
    dropout: float = 0.1
    dtype: DTypeLike = jnp.float32
    bn_group: int | None = None

    @nn.compact
    def __call__(
        self, maps: Sequence[jax.Array], train: bool = False, sizes: Sequence[jax.Array] | None = None
    ) -> jax.Array:
        """maps: (n, h, w, c) to (n, h/8, w/8, 8 c) -> (n, h, w, num_classes) in float32.

        sizes: for each map the rows and columns (n, 2) of the pictures in it, beyond which it holds zeros and the
        logits mean nothing; None: all of it.
        """
        levels = [_Level(x, None if sizes is None else sizes[i]) for i, x in enumerate(maps)]
        *finer, last = levels

        def conv(name: str, kernel_size: int, valid: jax.Array | None, *parts: jax.Array | Resized) -> jax.Array:
            layer = ConvNormRelu(self.channels, kernel_size, self.dtype, self.bn_group, name=name)
            return layer(*parts, train=train, valid=valid)

        pooled = []
        for number, bins in enumerate(POOL_SCALES):
            means = resize(last.map, *(adaptive_mean_matrix(axis.length, bins, axis.valid) for axis in last.axes))
            narrow = conv(f"psp_modules_{number}", 1, None, means)
            enlarge = [bilinear_matrix(bins, axis.length, None, axis.valid) for axis in last.axes]
            pooled.append(Resized(narrow, *enlarge))
        laterals = [conv(f"lateral_convs_{i}", 1, level.valid, level.map) for i, level in enumerate(finer)]
        laterals.append(conv("bottleneck", 3, last.valid, last.map, *pooled))
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] += resize(laterals[i], *levels[i].matrices(levels[i - 1]))
        outputs = [conv(f"fpn_convs_{i}", 3, levels[i].valid, x) for i, x in enumerate(laterals[:-1])]
        first, *coarser = [*outputs, laterals[-1]]
        enlarged = [Resized(x, *level.matrices(levels[0])) for x, level in zip(coarser, levels[1:], strict=True)]
        y = conv("fpn_bottleneck", 3, levels[0].valid, first, *enlarged)
        return PixelClassifier(self.num_classes, self.dropout, name="conv_seg")(y, train)


class _Axis(NamedTuple):
    """The rows or columns of a map: how many it has, and how many of them each picture has, (n,) or None for all."""

    length: int
    valid: jax.Array | None


class _Level:
    """A map (n, h, w, c) and the rows and columns of the pictures in it, (n, 2) or None for all."""

    def __init__(self, x: jax.Array, sizes: jax.Array | None) -> None:
        self.map = x
        canvas = x.shape[1:3]
        self.valid = None if sizes is None else valid_mask(sizes, canvas)
        self.axes = [_Axis(length, None if sizes is None else sizes[:, i]) for i, length in enumerate(canvas)]

    def matrices(self, other: "_Level") -> list[jax.Array]:
        """[rows, columns]: what resizes this map to the other's size."""
        return [
            bilinear_matrix(own.length, theirs.length, own.valid, theirs.valid)
            for own, theirs in zip(self.axes, other.axes, strict=True)
        ]


class FCNHead(nn.Module):
    """The auxiliary head of training: one 3x3 convolution on one map -> class logits at its size."""

    num_classes: int
    channels: int = 256
    dropout: float = 0.1
    dtype: DTypeLike = jnp.float32
    bn_group: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """x: (n, h, w, c) -> (n, h, w, num_classes) in float32; valid as of `ConvNormRelu`."""
        layer = ConvNormRelu(self.channels, 3, self.dtype, self.bn_group, name="convs_0")
        return PixelClassifier(self.num_classes, self.dropout, name="conv_seg")(
            layer(x, train=train, valid=valid), train
        )


class UPerNet(nn.Module):
    """A backbone with its four output norms, the decode head, and the auxiliary head on its third map.

    The merged form is that of the backbone, `model.clone(backbone=model.backbone.clone(deploy=True))`.
    """

    backbone: nn.Module
    num_classes: int
    channels: int = 512
    auxiliary_channels: int = 256
    dropout: float = 0.1
    bn_group: int | None = None

    def setup(self) -> None:
        options = {"dropout": self.dropout, "dtype": self.backbone.dtype, "bn_group": self.bn_group}
        self.decode_head = UPerHead(self.num_classes, self.channels, **options)
        self.auxiliary_head = FCNHead(self.num_classes, self.auxiliary_channels, **options)

    def __call__(self, x: jax.Array, train: bool = False, sizes: jax.Array | None = None) -> jax.Array:
        """x: (n, h, w, in_chans) -> logits (n, h/4, w/4, num_classes) in float32, sizes rounded up.

        sizes: (n, 2), the rows and columns of each picture, which lies in the upper left of x: it gives what it gives
        alone, whatever the rest of x holds; the logits beyond mean nothing. None: all of x.
        """
        if self.is_initializing():
            return self.with_auxiliary(x, train, sizes)[0]
        return self.decode_head(self.backbone.features(x, train, sizes), train, sizes_of_maps(sizes, 4))

    def with_auxiliary(
        self, x: jax.Array, train: bool = False, sizes: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The logits, and those of the auxiliary head, (n, h/16, w/16, num_classes)."""
        maps, own = self.backbone.features(x, train, sizes), sizes_of_maps(sizes, 4)
        valid = None if own is None else valid_mask(own[2], maps[2].shape[1:3])
        return self.decode_head(maps, train, own), self.auxiliary_head(maps[2], train, valid)

    @property
    def in_chans(self) -> int:
        return self.backbone.in_chans
