"""The UniRepLKNet block and its Dilated Reparam Block, in training and in merged (deploy) form."""

import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from unireplknet_jax.nn.layers import (
    BatchNorm,
    DropPath,
    GlobalResponseNorm,
    Linear,
    SqueezeExcite,
    in_dtype,
    kernel_init,
    parameter,
)
from unireplknet_jax.ops.depthwise import IMPLEMENTATIONS, depthwise_conv2d, laid_out_beside, prepared_conv2d
from unireplknet_jax.ops.layers import residual
from unireplknet_jax.ops.squeeze_excite import Biased
from unireplknet_jax.ops.valid import areas, only_valid

# Large kernel size -> (kernel size, dilation) of its parallel branches. K = 9 follows the released code, not the paper.
BRANCHES = types.MappingProxyType(
    {
        17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
        15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
        13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
        11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
        9: ((5, 1), (5, 2), (3, 3), (3, 4)),
        7: ((5, 1), (3, 2), (3, 3)),
    }
)
KERNEL_SIZES = (0, 3, 5, *sorted(BRANCHES))


class DepthwiseConv(nn.Module):
    """A depthwise convolution with "same" padding; `use_bias`, in merged form only, leaves its bias to what follows.

    A collection "prepared" (`models.prepare`) may hold the kernel in the form of one implementation, which then runs
    unless `impl` names another, or the collection was made for another, narrower dtype.
    beside: the size of a larger kernel with the same input (`ops.depthwise`).
    """

    kernel_size: int
    dilation: int = 1
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32
    impl: str = "auto"
    beside: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array | Biased:
        """x: (n, h, w, c) -> (n, h, w, c)."""
        c = x.shape[-1]
        kernel = parameter(self, "kernel", kernel_init, (self.kernel_size, self.kernel_size, 1, c))
        x = x.astype(self.dtype)
        prepared = self.variables.get("prepared", {})
        forms = {name: prepared[name] for name in prepared if name in IMPLEMENTATIONS}
        cast = {prepared[name].dtype for name in prepared if name not in IMPLEMENTATIONS}
        if forms and cast <= {jnp.dtype(self.dtype)} and self.impl in ("auto", *forms):
            y = prepared_conv2d(x, forms, kernel.shape, dilation=self.dilation)
        else:
            kernel = in_dtype(self, "kernel", kernel, self.dtype)
            y = depthwise_conv2d(x, kernel, dilation=self.dilation, impl=self.impl, beside=self.beside)
        if not self.use_bias:
            return y
        return Biased(y, in_dtype(self, "bias", parameter(self, "bias", nn.initializers.zeros, (c,)), self.dtype))


class DilatedReparamBlock(nn.Module):
    """A large depthwise kernel with parallel dilated small ones, each with its own batch norm, summed (paper 3.1)."""

    kernel_size: int
    deploy: bool = False
    dtype: DTypeLike = jnp.float32
    impl: str = "auto"
    bn_group: int | None = None
    bn_frozen: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array | Biased:
        """x: (n, h, w, c) -> (n, h, w, c); valid as of `BatchNorm`."""

        def conv(k: int, r: int, name: str) -> Any:
            return DepthwiseConv(k, r, self.deploy, self.dtype, self.impl, self.kernel_size, name=name)(x)

        def norm(y: jax.Array, name: str) -> jax.Array:
            return BatchNorm(self.bn_group, self.bn_frozen, name=name)(y, train, valid)

        if self.deploy:
            return conv(self.kernel_size, 1, "lk_origin")
        x = laid_out_beside(x, self.kernel_size)
        y = norm(conv(self.kernel_size, 1, "lk_origin"), "origin_bn")
        for k, r in BRANCHES[self.kernel_size]:
            y = y + norm(conv(k, r, f"dil_conv_k{k}_{r}"), f"dil_bn_k{k}_{r}")
        return laid_out_beside(y, self.kernel_size)


class UniRepLKNetBlock(nn.Module):
    """Depthwise convolution, batch norm, squeeze-and-excitation, then an inverted bottleneck with GRN; residual.

    kernel_size: 0 (no depthwise convolution and no norm), 3 or 5 (plain), 7 to 17 (Dilated Reparam Block).
    layer_scale_init: initial value of the per-channel scale of the residual branch; None: no such scale.
    """

    kernel_size: int
    drop_path: float = 0.0
    layer_scale_init: float | None = 1e-6
    deploy: bool = False
    dtype: DTypeLike = jnp.float32
    impl: str = "auto"
    bn_group: int | None = None
    bn_frozen: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """x: (n, h, w, c) -> (n, h, w, c).

        valid: (n, h, w, 1), the positions of the pictures in their canvas (`ops.valid`), beyond which x holds zeros, as
        the result does; None: all of it.
        """
        c = x.shape[-1]
        y: Any = self._spatial(x, train, valid)
        if valid is not None:
            y = only_valid(y.added() if isinstance(y, Biased) else y, valid)
        y = SqueezeExcite(self.dtype, name="se")(y, None if valid is None else areas(valid))
        y = only_valid(Linear(4 * c, dtype=self.dtype, name="pwconv1")(y), valid)  # GRN's energy: GELU of 0 is 0
        scaled = GlobalResponseNorm(use_bias=not self.deploy, name="grn")(y)
        y = Linear(c, self.deploy, self.dtype, name="pwconv2")(scaled)
        gamma = None
        if not self.deploy:
            y = BatchNorm(self.bn_group, self.bn_frozen, name="pwconv2_bn")(y, train, valid)
            if self.layer_scale_init is not None:
                gamma = parameter(self, "gamma", nn.initializers.constant(self.layer_scale_init), (c,))
        return only_valid(residual(x, DropPath(self.drop_path, name="drop_path")(y, train), gamma), valid)

    def _spatial(self, x: jax.Array, train: bool, valid: jax.Array | None) -> jax.Array | Biased:
        if self.kernel_size == 0:
            return x
        y: Any
        if self.kernel_size in BRANCHES:
            y = DilatedReparamBlock(
                self.kernel_size, self.deploy, self.dtype, self.impl, self.bn_group, self.bn_frozen, name="dwconv"
            )(x, train, valid)
        else:
            y = DepthwiseConv(self.kernel_size, 1, self.deploy, self.dtype, self.impl, name="dwconv")(x)
        if self.deploy:
            return y
        return BatchNorm(self.bn_group, self.bn_frozen, name="norm")(y, train, valid)
