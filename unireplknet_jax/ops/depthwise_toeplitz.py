"""Depthwise convolution as one matrix product per channel: exact products on the matrix unit, for maps up to 40 pixels.

The map is cut into tiles of whole rows. What a tile's outputs see of the input, its window, times a banded (Toeplitz)
matrix made of the kernel's taps, is the tile. Small maps are a single tile, and their own window.
"""

import functools
import typing
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from unireplknet_jax.ops.batch import by_platform

_CUBLAS = 8  # sides of matrices that its kernels for 2-byte numbers take; XLA pads others, in kernels of their own
_ONE_TILE = 256  # outputs of a map that is not cut
_TILE = 128  # outputs of a tile, at most: the width of a matrix unit
_CUDA_TILE = 196  # 7 rows of 28 pixels: windows of 2.7 instead of 4 times the map, for a matrix of twice the size


def convolve(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """x: (n, h, w, c), kernel: (kh, kw, 1, c), odd kh and kw -> (n, h, w, c), zero "same" padding, stride 1."""

    def made(x: jax.Array, kernel: jax.Array, platform: str) -> jax.Array:
        return _of_platform(x, prepare_for(kernel, x.shape[1:3], dilation, platform), kernel.shape, dilation, platform)

    if x.dtype.itemsize > 2:
        return made(x, kernel, "")
    return by_platform(
        x, kernel, default=functools.partial(made, platform=""), cuda=functools.partial(made, platform="gpu")
    )


def prepare(kernel: jax.Array, map_size: Sequence[int], dilation: int, tile: int = _TILE) -> jax.Array:
    """The matrix of kernel (kh, kw, 1, c) on maps of `map_size`, of its dtype: (c, window rows, w, tile rows, w).

    tile: outputs of a tile, at most.
    """
    tiling = tile_map(map_size, kernel.shape, dilation, tile)
    return _matrix(kernel[:, :, 0].transpose(2, 0, 1), map_size[1], tiling, dilation)


def prepare_for(kernel: jax.Array, map_size: Sequence[int], dilation: int, platform: str) -> jax.Array:
    """`prepare` as the product of a platform takes it: for 2-byte numbers on a GPU (c, rows, columns), padded."""
    if platform != "gpu" or kernel.dtype.itemsize > 2:
        return prepare(kernel, map_size, dilation)
    return _padded(_flat(prepare(kernel, map_size, dilation, _CUDA_TILE)), _CUBLAS)


def _flat(matrix: jax.Array) -> jax.Array:
    """(c, window rows, w, tile rows, w) -> (c, window rows * w, tile rows * w); one of three axes stays as it is."""
    if matrix.ndim == 3:
        return matrix
    c, *sides = matrix.shape
    return matrix.reshape(c, sides[0] * sides[1], sides[2] * sides[3])


def _padded(matrix: jax.Array, multiple: int) -> jax.Array:
    return jnp.pad(matrix, ((0, 0), *((0, -side % multiple) for side in matrix.shape[1:])))


def convolve_prepared(x: jax.Array, matrix: jax.Array, kernel_shape: Sequence[int], dilation: int) -> jax.Array:
    """`convolve` with a kernel of `kernel_shape` in the form that `prepare` or `prepare_for` gives."""
    form = functools.partial(_of_platform, kernel_shape=kernel_shape, dilation=dilation)
    if x.dtype.itemsize > 2:
        return form(x, matrix, platform="")
    return by_platform(
        x, matrix, default=functools.partial(form, platform=""), cuda=functools.partial(form, platform="gpu")
    )


def _of_platform(
    x: jax.Array, matrix: jax.Array, kernel_shape: Sequence[int], dilation: int, platform: str
) -> jax.Array:
    """The convolution as a platform takes it, whatever platform the matrix was made for."""
    tiling = tile_map(x.shape[1:3], kernel_shape, dilation, _CUDA_TILE if matrix.ndim == 3 else _TILE)
    matrix = _flat(matrix.astype(x.dtype))
    # cuBLAS adds up in float32 whatever the result, and takes sides that are multiples of 8.
    return _convolve(x, matrix, tiling, _CUBLAS, x.dtype) if platform == "gpu" else _convolve(x, matrix, tiling)


def _convolve(
    x: jax.Array, matrix: jax.Array, tiling: "Tiling", multiple: int = 1, result: DTypeLike | None = None
) -> jax.Array:
    """x: (n, h, w, c), matrix: (c, window rows * w, tile rows * w) or padded -> (n, h, w, c); `result`: of the product.

    multiple: of which the sides of the operands are, padded with zeros.
    """
    n, h, w, c = x.shape
    sides = tiling.window * w, tiling.tile * w
    rows, columns = (-side % multiple for side in sides)
    matrix = _padded(matrix[:, : sides[0] + rows, : sides[1] + columns], multiple)
    y = _product("cntq,cqp->cntp", _windows(x, tiling, rows), matrix, result).astype(x.dtype)
    y = y[..., : sides[1]].reshape(c, n, tiling.number * tiling.tile, w)
    return y[:, :, :h].transpose(1, 2, 3, 0)


def kernel_gradient(x: jax.Array, g: jax.Array, kernel_shape: Sequence[int], dilation: int) -> jax.Array:
    """The cotangent of the kernel, (kh, kw, 1, c), float32 at least, for the output cotangent g: (n, h, w, c)."""
    w, c = x.shape[2:]
    tiling = tile_map(x.shape[1:3], kernel_shape, dilation)
    if tiling.number > 1:  # else the windows, several times the map, would be kept from the forward pass
        x = lax.optimization_barrier(x)
    matrix = _product("cntq,cntp->cqp", _windows(x, tiling), _tiles(g, tiling))
    matrix = matrix.reshape(c, tiling.window, w, tiling.tile, w)
    taps = jnp.broadcast_to(matrix[:, 0, :1, 0, :1], (c, *kernel_shape[:2]))  # any values: the map is linear
    (gradient,) = jax.linear_transpose(lambda taps: _matrix(taps, w, tiling, dilation), taps)(matrix)
    return gradient.transpose(1, 2, 0)[:, :, None]


class Tiling(typing.NamedTuple):
    """Rows of a tile, of its window, from the window's first to the tile's first, and the number of tiles."""

    tile: int
    window: int
    above: int
    number: int


def tile_map(map_size: Sequence[int], kernel_shape: Sequence[int], dilation: int, outputs: int = _TILE) -> Tiling:
    """A map is cut into tiles of so many outputs at most, one that is small enough not at all."""
    (h, w), radius = map_size, kernel_shape[0] // 2 * dilation
    if h * w <= _ONE_TILE:
        return Tiling(h, h, 0, 1)
    tile = max(outputs // w, 1)
    return Tiling(tile, tile + 2 * radius, radius, -(-h // tile))


def _matrix(taps: jax.Array, w: int, tiling: Tiling, dilation: int) -> jax.Array:
    """taps: (c, kh, kw) -> (c, window rows, w, tile rows, w): at [:, q, p] the tap at the offset q - p."""
    bands = band_matrix(taps, w, w, 0, dilation)  # (c, kh, window column, tile column)
    bands = band_matrix(bands.transpose(0, 2, 3, 1), tiling.window, tiling.tile, tiling.above, dilation)
    return bands.transpose(0, 3, 1, 4, 2)


def band_matrix(taps: jax.Array, window: int, tile: int, above: int, dilation: int) -> jax.Array:
    """taps: (..., k) -> (..., window, tile): [a, i] is the tap at the offset a - above - i, 0 where there is none."""
    length = (taps.shape[-1] - 1) * dilation + 1
    before = tile - 1 + above - length // 2
    padding = (before, window + tile - 1 - length - before, dilation - 1)
    line = lax.pad(taps, jnp.zeros((), taps.dtype), [(0, 0, 0)] * (taps.ndim - 1) + [padding])
    starts = range(tile - 1, -1, -1)
    return jnp.stack([lax.slice_in_dim(line, i, i + window, axis=line.ndim - 1) for i in starts], axis=-1)


def _windows(x: jax.Array, tiling: Tiling, more: int = 0) -> jax.Array:
    """x: (n, h, w, c) -> (c, n, tiles, window rows * w + more), with as many zeros at the end."""
    (n, h, w, c), (tile, window, above, number) = x.shape, tiling
    if more and number == 1:  # before the axes change places, or a GPU needs a kernel for each of the two
        return jnp.pad(x.reshape(n, h * w, c), ((0, 0), (0, more), (0, 0))).transpose(2, 0, 1)[:, :, None]
    x = x.transpose(3, 0, 1, 2).reshape(c, n, h * w)
    below = (number - 1) * tile + window - above - h
    x = jnp.pad(x, ((0, 0), (0, 0), (above * w, below * w)))
    starts = [t * tile * w for t in range(number)]
    x = jnp.stack([lax.slice_in_dim(x, i, i + window * w, axis=2) for i in starts], axis=2)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more))) if more else x


def _tiles(x: jax.Array, tiling: Tiling) -> jax.Array:
    """x: (n, h, w, c) -> (c, n, tiles, tile rows * w)."""
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, tiling.number * tiling.tile - h), (0, 0), (0, 0)))
    return x.transpose(3, 0, 1, 2).reshape(c, n, tiling.number, tiling.tile * w)


def _product(equation: str, x: jax.Array, other: jax.Array, result: DTypeLike | None = None) -> jax.Array:
    """A product of matrices for every channel, accumulated in float32 at least; the dtype of the result, None: that."""
    return jnp.einsum(
        equation,
        x,
        other,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=result or jnp.promote_types(x.dtype, jnp.float32),
    )
