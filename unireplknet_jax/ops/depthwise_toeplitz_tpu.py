"""`depthwise_toeplitz` as a TPU computes it without copying: its matrices are made in the layout that the product eats.

A matrix unit wants two sides of a product in a register's 8 rows and 128 lanes, and every channel by itself. Left to
itself XLA makes the matrices with the channels in the lanes, and then turns them, which costs more than all products
together. Here the few numbers that a matrix is made of are turned, and a row of the matrix is a part of their line.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from unireplknet_jax.ops.depthwise_toeplitz import Tiling, band_matrix, tile_map

_ROWS = 8  # of a register: a row of the map begins at a multiple of them in a tile


def convolve(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """x: (n, h, w, c), kernel: (kh, kw, 1, c), odd kh and kw -> (n, h, w, c), zero "same" padding, stride 1."""
    return convolve_prepared(x, prepare(kernel, x.shape[1:3], dilation), kernel.shape, dilation)


def prepare(kernel: jax.Array, map_size: Sequence[int], dilation: int) -> jax.Array:
    """The matrix of kernel (kh, kw, 1, c) on maps of `map_size`, of its dtype: (c, tile rows, columns, its window)."""
    tiling = tile_map(map_size, kernel.shape, dilation)
    return _matrix(kernel[:, :, 0].transpose(2, 0, 1), map_size[1], tiling, dilation)


def convolve_prepared(x: jax.Array, matrix: jax.Array, kernel_shape: Sequence[int], dilation: int) -> jax.Array:
    """`convolve` with a kernel of `kernel_shape` in the form that `prepare` gives."""
    (n, h, w, c), tiling = x.shape, tile_map(x.shape[1:3], kernel_shape, dilation)
    matrix, x = matrix.astype(x.dtype).reshape(c, tiling.tile * _columns(w), -1), _channels_first(x)
    tiles = []
    for tile in range(tiling.number):
        seen, kept = _window(tile, h, w, tiling)
        tiles.append(_product("cpq,cqn->cpn", matrix[:, :, kept], x[:, seen]).astype(x.dtype))
    y = jnp.concatenate(tiles, axis=1).reshape(c, tiling.number * tiling.tile, _columns(w), n)
    return y[:, :h, :w].transpose(3, 1, 2, 0)


def kernel_gradient(x: jax.Array, g: jax.Array, kernel_shape: Sequence[int], dilation: int) -> jax.Array:
    """The cotangent of the kernel, (kh, kw, 1, c), float32 at least, for the output cotangent g: (n, h, w, c)."""
    (_, h, w, c), tiling = x.shape, tile_map(x.shape[1:3], kernel_shape, dilation)
    x, g = _channels_first(x), _channels_first(g)
    matrix = jnp.zeros((), jnp.float32)
    for tile in range(tiling.number):
        seen, kept = _window(tile, h, w, tiling)
        part = _product("cqn,cpn->cpq", x[:, seen], g[:, tile * tiling.tile * w : (tile + 1) * tiling.tile * w])
        missing = tiling.tile * w - part.shape[1]
        matrix += jnp.pad(part, ((0, 0), (0, missing), (kept.start, tiling.window * w - kept.stop)))
    lines = _sum_of_diagonals(_row_major(matrix), w, tiling)
    taps = jnp.broadcast_to(lines[:, :1, :1], (c, *kernel_shape[:2]))  # any values: the map is linear
    (gradient,) = jax.linear_transpose(lambda taps: _lines(taps, w, w, tiling, dilation), taps)(lines)
    return gradient.transpose(1, 2, 0)[:, :, None]


def _sum_of_diagonals(matrix: jax.Array, w: int, tiling: Tiling) -> jax.Array:
    """The cotangent of what `_lines` gives for a cotangent (c, tile rows * w, window rows * w) of the matrix."""
    after = (tiling.tile - 1) * w
    rows = [matrix[:, i * w : (i + 1) * w] for i in range(tiling.tile)]
    padded = [jnp.pad(row, ((0, 0), (0, 0), (i, after - i))) for row, i in zip(rows, _starts(w, tiling), strict=True)]
    return functools.reduce(jnp.add, padded)


def lay_out(x: jax.Array) -> jax.Array:
    """x: (n, h, w, c) as it is, laid out in memory as the products take and give it: (c, h, w, n)."""
    return with_layout_constraint(x, Layout((3, 1, 2, 0)))


def _columns(w: int) -> int:
    """Columns of a tile: those of the map and some beyond, which are thrown away."""
    return -(-w // _ROWS) * _ROWS


def _window(tile: int, h: int, w: int, tiling: Tiling) -> tuple[slice, slice]:
    """The pixels of the map that a tile's window holds, and which of the window's pixels these are."""
    first = tile * tiling.tile - tiling.above
    start, stop = max(first, 0), min(first + tiling.window, h)
    return slice(start * w, stop * w), slice((start - first) * w, (stop - first) * w)


def _matrix(taps: jax.Array, w: int, tiling: Tiling, dilation: int) -> jax.Array:
    """taps: (c, kh, kw) -> (c, tile rows, columns, window rows * w): the tap at the offset between two pixels."""
    lines = _row_major(_lines(taps, w, _columns(w), tiling, dilation))
    parts = [lax.slice_in_dim(lines, start, start + tiling.window * w, axis=2) for start in _starts(w, tiling)]
    return _row_major(jnp.stack(parts, axis=1))


def _starts(w: int, tiling: Tiling) -> list[int]:
    """Where in the lines the part begins that is a row of the tile."""
    return [(tiling.tile - 1 - i) * w for i in range(tiling.tile)]


def _lines(taps: jax.Array, w: int, columns: int, tiling: Tiling, dilation: int) -> jax.Array:
    """taps: (c, kh, kw) -> (c, columns, rows * w), what each column of a tile's last row sees, and its other rows."""
    rows, length = tiling.window + tiling.tile - 1, (taps.shape[1] - 1) * dilation + 1
    before = tiling.tile - 1 + tiling.above - length // 2
    padding = [(0, 0, 0), (0, 0, 0), (before, rows - length - before, dilation - 1), (0, 0, 0)]
    bands = band_matrix(taps, w, columns, 0, dilation).transpose(0, 3, 1, 2)  # (c, tile column, kh, window column)
    return lax.pad(bands, jnp.zeros((), taps.dtype), padding).reshape(-1, columns, rows * w)


def _channels_first(x: jax.Array) -> jax.Array:
    """x: (n, h, w, c) -> (c, h * w, n)."""
    n, h, w, c = x.shape
    return x.transpose(3, 1, 2, 0).reshape(c, h * w, n)


def _row_major(x: jax.Array) -> jax.Array:
    """x, laid out in memory in the order of its axes."""
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def _product(equation: str, x: jax.Array, other: jax.Array) -> jax.Array:
    """A product of matrices for every channel, accumulated in float32 at least."""
    return jnp.einsum(
        equation,
        x,
        other,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
