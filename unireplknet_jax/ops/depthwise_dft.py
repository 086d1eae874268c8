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


def convolve(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """x: (n, h, w, c), kernel: (kh, kw, 1, c), odd kh and kw -> (n, h, w, c), zero "same" padding, stride 1."""
    return convolve_prepared(x, prepare(kernel, x.shape[1:3], dilation), kernel.shape, dilation)


def prepare(kernel: jax.Array, map_size: Sequence[int], dilation: int) -> jax.Array:
    """The spectrum (P/2, 2, Q, c), float32, of kernel (kh, kw, 1, c) on maps of `map_size`; 2: real, imaginary part."""
    return _spectrum(kernel[None, :, :, 0], _transforms(tuple(map_size), kernel.shape[:2], dilation).taps)[0]


def convolve_prepared(x: jax.Array, spectrum: jax.Array, kernel_shape: Sequence[int], dilation: int) -> jax.Array:
    """`convolve` with a kernel of `kernel_shape` in the form that `prepare` gives."""
    transforms = _transforms(x.shape[1:3], tuple(kernel_shape[:2]), dilation)
    (x_real, x_imag), (k_real, k_imag) = _parts(_spectrum(x, transforms.map)), _parts(spectrum)
    product = [x_real * k_real - x_imag * k_imag, x_real * k_imag + x_imag * k_real]
    return (_back(jnp.stack(product, axis=2), transforms.map) * transforms.scale).astype(x.dtype)


def kernel_gradient(x: jax.Array, g: jax.Array, kernel_shape: Sequence[int], dilation: int) -> jax.Array:
    """The cotangent of the kernel, (kh, kw, 1, c), float32 at least, for the output cotangent g: (n, h, w, c)."""
    transforms = _transforms(x.shape[1:3], tuple(kernel_shape[:2]), dilation)
    (x_real, x_imag), (g_real, g_imag) = (_parts(_spectrum(a, transforms.map)) for a in (x, g))
    product = [x_real * g_real + x_imag * g_imag, x_real * g_imag - x_imag * g_real]
    total = jnp.stack([jnp.sum(part, axis=0) for part in product], axis=1)
    return _back(total[None], transforms.taps)[0, :, :, None] * transforms.scale


class _Transforms(typing.NamedTuple):
    """For one map size, of positions on the map and of the taps: how a column and then a row is transformed."""

    map: tuple[np.ndarray, np.ndarray]  # (P/2 2, h) of real columns, (2 Q, 2 w) of complex rows
    taps: tuple[np.ndarray, np.ndarray]  # (P/2 2, kh), (2 Q, 2 kw), conjugate
    scale: float  # what transforming back has to be multiplied with


@functools.cache
def _transforms(map_size: tuple[int, ...], kernel_size: tuple[int, ...], dilation: int) -> _Transforms:
    radii = tuple(k // 2 * dilation for k in kernel_size)
    P, Q = (length + radius for length, radius in zip(map_size, radii, strict=True))
    P += P % 2
    frequencies = (np.arange(P // 2) + 0.5) / P, (np.arange(Q) + 0.5) / Q
    taps = [dilation * np.arange(k) - radius for k, radius in zip(kernel_size, radii, strict=True)]
    columns, rows = (_waves(f, np.arange(length)) for f, length in zip(frequencies, map_size, strict=True))
    tap_columns, tap_rows = (_waves(f, positions).conj() for f, positions in zip(frequencies, taps, strict=True))
    return _Transforms(
        (_of_real(columns), _of_complex(rows)), (_of_real(tap_columns), _of_complex(tap_rows)), 2 / P / Q
    )


def _waves(frequencies: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """exp(-2 pi i f t), (frequencies, positions)."""
    return np.exp(-2j * np.pi * np.outer(frequencies, positions))


def _of_real(matrix: np.ndarray) -> np.ndarray:
    """A complex matrix (f, t) that acts on real vectors, as a real one (f 2, t)."""
    return np.stack([matrix.real, matrix.imag], axis=1).reshape(-1, matrix.shape[1])


def _of_complex(matrix: np.ndarray) -> np.ndarray:
    """A complex matrix (f, t) that acts on complex vectors, as a real one (2 f, 2 t)."""
    return np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])


def _spectrum(x: jax.Array, transform: tuple[np.ndarray, np.ndarray]) -> jax.Array:
    """x: (n, h, w, c) -> (n, P/2, 2, Q, c), float32 at least."""
    (n, h, w, c), (columns, rows) = x.shape, transform
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(n, h, w * c)
    halfway = _product("fh,nhx->nfx", columns, x).reshape(n, -1, 2 * w, c)
    return _product("gw,nfwc->nfgc", rows, halfway).reshape(n, len(columns) // 2, 2, len(rows) // 2, c)


def _back(spectrum: jax.Array, transform: tuple[np.ndarray, np.ndarray]) -> jax.Array:
    """The transpose of `_spectrum`: (n, P/2, 2, Q, c) -> (n, h, w, c)."""
    (n, half, _, Q, c), (columns, rows) = spectrum.shape, transform
    halfway = _product("gw,nfgc->nfwc", rows, spectrum.reshape(n, half, 2 * Q, c)).reshape(n, 2 * half, -1)
    return _product("fh,nfx->nhx", columns, halfway).reshape(n, columns.shape[1], -1, c)


def _product(equation: str, matrix: np.ndarray, x: jax.Array) -> jax.Array:
    return jnp.einsum(equation, jnp.asarray(matrix, x.dtype), x, precision=lax.Precision.HIGHEST)


def _parts(spectrum: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Real and imaginary part of (..., 2, Q, c)."""
    return spectrum[..., 0, :, :], spectrum[..., 1, :, :]
