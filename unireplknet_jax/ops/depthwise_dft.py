"""Depthwise convolution as a product of spectra whose transforms are matrix products: for maps of 8 to 40 pixels.

A transform of h points costs h multiply-adds per value as a matrix product, log h as an FFT; on maps this small a
core's fused multiply-adds make the first the faster one. As in `depthwise_fft`, h + radius points suffice for a "same"
output. The frequencies are (f + 1/2) / P: a shift by P then changes the sign, which touches only values that are not
kept, and the spectrum of a real row is P / 2 whole complex numbers without a special first and last one. The channels
stay innermost: no step moves data but the products themselves.
"""

import functools
import typing
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from unireplknet_jax.ops.batch import by_platform


def convolve(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """x: (n, h, w, c), kernel: (kh, kw, 1, c), odd kh and kw -> (n, h, w, c), zero "same" padding, stride 1."""
    return convolve_prepared(x, prepare(kernel, x.shape[1:3], dilation), kernel.shape, dilation)


def prepare(kernel: jax.Array, map_size: Sequence[int], dilation: int) -> jax.Array:
    """The spectrum (2, P, Q/2, c), float32, of kernel (kh, kw, 1, c) on maps of `map_size`; 2: real, imaginary part."""
    return _spectrum(kernel[None, :, :, 0], _transforms(tuple(map_size), kernel.shape[:2], dilation).taps)[0]


def convolve_prepared(x: jax.Array, spectrum: jax.Array, kernel_shape: Sequence[int], dilation: int) -> jax.Array:
    """`convolve` with a kernel of `kernel_shape` in the form that `prepare` gives."""
    transforms = _transforms(x.shape[1:3], tuple(kernel_shape[:2]), dilation)
    (x_real, x_imag), (k_real, k_imag) = _parts(_spectrum(x, transforms.map)), _parts(spectrum)
    product = [x_real * k_real - x_imag * k_imag, x_real * k_imag + x_imag * k_real]
    return (_back(jnp.stack(product, axis=1), transforms.map) * transforms.scale).astype(x.dtype)


def kernel_gradient(x: jax.Array, g: jax.Array, kernel_shape: Sequence[int], dilation: int) -> jax.Array:
    """The cotangent of the kernel, (kh, kw, 1, c), float32 at least, for the output cotangent g: (n, h, w, c)."""
    transforms = _transforms(x.shape[1:3], tuple(kernel_shape[:2]), dilation)
    (x_real, x_imag), (g_real, g_imag) = (_parts(_spectrum(a, transforms.map)) for a in (x, g))
    product = [x_real * g_real + x_imag * g_imag, x_real * g_imag - x_imag * g_real]
    total = _sum(jnp.stack(product, axis=1))
    return _back(total[None], transforms.taps)[0, :, :, None] * transforms.scale


class _Transforms(typing.NamedTuple):
    """For one map size, of positions on the map and of the taps: how a row and then a column is transformed."""

    map: tuple[np.ndarray, np.ndarray]  # (2 Q/2, w) of real rows, (2 P, h 2) of complex columns
    taps: tuple[np.ndarray, np.ndarray]  # (2 Q/2, kw), (2 P, kh 2), conjugate
    scale: float  # what transforming back has to be multiplied with


@functools.cache
def _transforms(map_size: tuple[int, ...], kernel_size: tuple[int, ...], dilation: int) -> _Transforms:
    radii = tuple(k // 2 * dilation for k in kernel_size)
    P, Q = (length + radius for length, radius in zip(map_size, radii, strict=True))
    Q += Q % 2
    frequencies = (np.arange(P) + 0.5) / P, (np.arange(Q // 2) + 0.5) / Q
    taps = [dilation * np.arange(k) - radius for k, radius in zip(kernel_size, radii, strict=True)]
    columns, rows = (_waves(f, np.arange(length)) for f, length in zip(frequencies, map_size, strict=True))
    tap_columns, tap_rows = (_waves(f, positions).conj() for f, positions in zip(frequencies, taps, strict=True))
    return _Transforms(
        (_of_real(rows), _of_complex(columns)), (_of_real(tap_rows), _of_complex(tap_columns)), 2 / P / Q
    )


def _waves(frequencies: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """exp(-2 pi i f t), (frequencies, positions)."""
    return np.exp(-2j * np.pi * np.outer(frequencies, positions))


def _of_real(matrix: np.ndarray) -> np.ndarray:
    """A complex matrix (f, t) that acts on real vectors, as a real one (2 f, t)."""
    return np.concatenate([matrix.real, matrix.imag])


def _of_complex(matrix: np.ndarray) -> np.ndarray:
    """A complex matrix (f, t) that acts on vectors of complex numbers (t, 2), as a real one (2 f, t 2)."""
    parts = np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])
    return parts.reshape(len(parts), 2, -1).swapaxes(1, 2).reshape(len(parts), -1)


def _spectrum(x: jax.Array, transform: tuple[np.ndarray, np.ndarray]) -> jax.Array:
    """x: (n, h, w, c) -> (n, 2, P, Q/2, c), float32 at least.

    No map is reshaped but between the products: what makes x would be computed number by number for another shape.
    """
    (n, h, _, c), (rows, columns) = x.shape, transform
    half = len(rows) // 2
    halfway = _product(rows, x.astype(jnp.promote_types(x.dtype, jnp.float32))).reshape(n, h * 2, half * c)
    return _product(columns, halfway).reshape(n, 2, -1, half, c)


def _back(spectrum: jax.Array, transform: tuple[np.ndarray, np.ndarray]) -> jax.Array:
    """The transpose of `_spectrum`: (n, 2, P, Q/2, c) -> (n, h, w, c)."""
    (n, _, P, half, c), (rows, columns) = spectrum.shape, transform
    halfway = _product(columns.T, spectrum.reshape(n, 2 * P, half * c)).reshape(n, -1, 2 * half, c)
    return _product(rows.T, halfway)


def _product(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    """matrix: (f, h), x: (..., h, c) -> (..., f, c).

    On a CPU as many small products with a copy of the matrix each: one product of all would turn x round, and back.
    """

    def at_once(x: jax.Array) -> jax.Array:
        return jnp.einsum("fh,...hc->...fc", jnp.asarray(matrix, x.dtype), x, precision=lax.Precision.HIGHEST)

    def one_by_one(x: jax.Array) -> jax.Array:
        matrices = jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (*x.shape[:-2], *matrix.shape))
        return jnp.matmul(matrices, x, precision=lax.Precision.HIGHEST)

    return by_platform(x, default=at_once, cpu=one_by_one)


def _sum(spectra: jax.Array) -> jax.Array:
    """The sum over the examples of (n, 2, P, Q/2, c). On a CPU of what is stored: that is faster."""

    def sum_of_stored(spectra: jax.Array) -> jax.Array:
        return jnp.sum(lax.optimization_barrier(spectra), axis=0)

    return by_platform(spectra, default=functools.partial(jnp.sum, axis=0), cpu=sum_of_stored)


def _parts(spectrum: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Real and imaginary part of (..., 2, P, Q/2, c)."""
    return spectrum[..., 0, :, :, :], spectrum[..., 1, :, :, :]
