"""Depthwise convolution as a product of spectra: its cost does not depend on the kernel size.

A "same" output needs a circular transform of h + radius points only: with the padding on the left, whatever wraps
around lands on zeros. The radius must be below the map's size, which cropping the kernel to the map guarantees
(`depthwise.crop_kernel`).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from unireplknet_jax.ops.fold import dilate_kernel


def convolve(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """x: (n, h, w, c), kernel: (kh, kw, 1, c), odd kh and kw -> (n, h, w, c), zero "same" padding, stride 1."""
    return convolve_prepared(x, prepare(kernel, x.shape[1:3], dilation), kernel.shape, dilation)


def prepare(kernel: jax.Array, map_size: Sequence[int], dilation: int) -> jax.Array:
    """The spectrum, complex (P, Q / 2 + 1, c), of kernel (kh, kw, 1, c) on maps of `map_size`."""
    size = _transform_size(map_size, kernel.shape, dilation)
    return _spectrum(dilate_kernel(kernel, dilation)[None, :, :, 0], size)[0].conj()


def convolve_prepared(x: jax.Array, spectrum: jax.Array, kernel_shape: Sequence[int], dilation: int) -> jax.Array:
    """`convolve` with a kernel of `kernel_shape` in the form that `prepare` gives."""
    size = _transform_size(x.shape[1:3], kernel_shape, dilation)
    product = _input_spectrum(x, size, kernel_shape, dilation) * spectrum
    return _inverse(product, size)[:, : x.shape[1], : x.shape[2], :].astype(x.dtype)


def kernel_gradient(x: jax.Array, g: jax.Array, kernel_shape: Sequence[int], dilation: int) -> jax.Array:
    """The cotangent of the kernel, (kh, kw, 1, c), float32 at least, for the output cotangent g: (n, h, w, c)."""
    size = _transform_size(x.shape[1:3], kernel_shape, dilation)
    product = jnp.sum(_input_spectrum(x, size, kernel_shape, dilation) * _spectrum(g, size).conj(), axis=0)
    rows, columns = ((k - 1) * dilation + 1 for k in kernel_shape[:2])
    return _inverse(product[None], size)[0, :rows:dilation, :columns:dilation, None, :]


def _radius(kernel_shape: Sequence[int], dilation: int) -> tuple[int, ...]:
    return tuple(k // 2 * dilation for k in kernel_shape[:2])


def _transform_size(map_size: Sequence[int], kernel_shape: Sequence[int], dilation: int) -> tuple[int, int]:
    rows, columns = (n + radius for n, radius in zip(map_size, _radius(kernel_shape, dilation), strict=True))
    return rows, columns + columns % 2  # even: the shape of a spectrum, (P, Q / 2 + 1), then tells Q


def _input_spectrum(x: jax.Array, size: tuple[int, int], kernel_shape: Sequence[int], dilation: int) -> jax.Array:
    rows, columns = _radius(kernel_shape, dilation)
    return _spectrum(jnp.pad(x, ((0, 0), (rows, 0), (columns, 0), (0, 0))), size)


def _spectrum(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    return jnp.fft.rfft2(x.astype(jnp.promote_types(x.dtype, jnp.float32)), s=size, axes=(1, 2))


def _inverse(spectrum: jax.Array, size: tuple[int, int]) -> jax.Array:
    return jnp.fft.irfft2(spectrum, s=size, axes=(1, 2))
