"""Depthwise convolution as a sum of shifted and scaled inputs: one multiply-add per tap; for small kernels."""

import jax
import jax.numpy as jnp

from unireplknet_jax.ops.batch import over_batch_shards

_UNROLLED = 25  # taps of the largest kernel that is unrolled: the compiled program grows with them


def convolve(x, kernel, dilation):
    """x: (n, h, w, c), kernel: (kh, kw, 1, c), odd kh and kw -> (n, h, w, c), zero "same" padding, stride 1."""
    kh, kw = kernel.shape[:2]
    accumulate = jnp.promote_types(x.dtype, jnp.float32)
    padded = _pad(x, kernel.shape, dilation)
    taps = kernel.reshape(kh * kw, -1).astype(accumulate)

    def add(tap, y):
        corner = (0, tap // kw * dilation, tap % kw * dilation, 0)
        return y + jax.lax.dynamic_slice(padded, corner, x.shape).astype(accumulate) * taps[tap]

    y = jnp.zeros(x.shape, accumulate)
    if kh * kw > _UNROLLED:
        return jax.lax.fori_loop(0, kh * kw, add, y).astype(x.dtype)
    for tap in range(kh * kw):
        y = add(tap, y)
    return y.astype(x.dtype)


def kernel_gradient(x, g, kernel_shape, dilation):
    """The cotangent of the kernel, (kh, kw, 1, c), for the output cotangent g: (n, h, w, c).

    A loop over the taps: as fast as unrolled on CPU, and a training step compiles in two thirds of the time.
    """
    accumulate = jnp.promote_types(x.dtype, jnp.float32)
    kh, kw = kernel_shape[:2]

    def local(x, g):
        padded, g = _pad(x, kernel_shape, dilation), g.astype(accumulate)

        def one(tap):
            corner = (0, tap // kw * dilation, tap % kw * dilation, 0)
            return jnp.sum(jax.lax.dynamic_slice(padded, corner, x.shape).astype(accumulate) * g, axis=(0, 1, 2))

        return jax.lax.map(one, jnp.arange(kh * kw)).reshape(kernel_shape)

    return over_batch_shards(local, (x, g), (), sum_output=True).astype(x.dtype)


def _pad(x, kernel_shape, dilation):
    rows, columns = (k // 2 * dilation for k in kernel_shape[:2])
    padded = jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    return jax.lax.optimization_barrier(padded)  # else what x is computed from would be computed once for every tap
