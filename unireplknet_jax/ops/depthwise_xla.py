"""Depthwise convolution as XLA's own grouped convolution: for small kernels on TPU and GPU, and the others' reference.

On an NVIDIA GPU cuDNN computes it, which adds up bfloat16 in float32 by itself; asked for a float32 result, XLA widens
the operands first, and takes 5 to 200 times as long.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike


def convolve(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """x: (n, h, w, c), kernel: (kh, kw, 1, c), odd kh and kw -> (n, h, w, c), zero "same" padding, stride 1."""
    return lax.platform_dependent(
        x,
        kernel,
        cuda=lambda x, kernel: _convolve(x, kernel, dilation, x.dtype),
        default=lambda x, kernel: _convolve(x, kernel, dilation, _wide(x.dtype)).astype(x.dtype),
    )


def kernel_gradient(x: jax.Array, g: jax.Array, kernel_shape: Sequence[int], dilation: int) -> jax.Array:
    """The cotangent of the kernel, (kh, kw, 1, c), float32 at least, for the output cotangent g: (n, h, w, c)."""
    kernel = jnp.broadcast_to(x[:1, :1, :1], kernel_shape)  # any values: the map is linear

    def gradient(x: jax.Array, g: jax.Array, kernel: jax.Array) -> jax.Array:
        linear = functools.partial(_convolve, x, dilation=dilation, accumulate=x.dtype)
        return jax.linear_transpose(linear, kernel)(g)[0].astype(_wide(x.dtype))

    # Wide throughout: the transpose of a mixed-precision convolution is not defined by JAX.
    wide = _wide(x.dtype)
    return lax.platform_dependent(
        x, g, kernel, cuda=gradient, default=lambda *arrays: gradient(*(array.astype(wide) for array in arrays))
    )


def _wide(dtype: DTypeLike) -> jnp.dtype:
    return jnp.promote_types(dtype, jnp.float32)


def _convolve(x: jax.Array, kernel: jax.Array, dilation: int, accumulate: DTypeLike) -> jax.Array:
    padding = [(size // 2 * dilation, size // 2 * dilation) for size in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        preferred_element_type=accumulate,
    )
