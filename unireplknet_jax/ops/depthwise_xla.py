"""Depthwise convolution as XLA's own grouped convolution: the form for TPU and GPU, and the others' reference."""

import jax
import jax.numpy as jnp
from jax import lax


def convolve(x, kernel, dilation):
    """x: (n, h, w, c), kernel: (kh, kw, 1, c), odd kh and kw -> (n, h, w, c), zero "same" padding, stride 1."""
    return _convolve(x, kernel, dilation, jnp.promote_types(x.dtype, jnp.float32)).astype(x.dtype)


def kernel_gradient(x, g, kernel_shape, dilation):
    """The cotangent of the kernel, (kh, kw, 1, c), float32 at least, for the output cotangent g: (n, h, w, c)."""
    # Wide throughout: the transpose of a mixed-precision convolution is not defined by JAX.
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def linear(kernel):
        return _convolve(x.astype(wide), kernel, dilation, wide)

    kernel = jnp.broadcast_to(x[:1, :1, :1], kernel_shape).astype(wide)  # any values: the map is linear
    (gradient,) = jax.linear_transpose(linear, kernel)(g.astype(wide))
    return gradient


def _convolve(x, kernel, dilation, accumulate):
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
