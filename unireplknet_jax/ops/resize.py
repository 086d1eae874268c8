"""Bilinear resizing and adaptive mean pooling as products with one matrix for each axis, in PyTorch's conventions.

A matrix may belong to each picture of a batch: pictures of several sizes lie in the upper left of one canvas, and what
is beyond their valid rows and columns is neither read nor written.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from unireplknet_jax.ops.batch import mesh_platform


class Resized(NamedTuple):
    """A map x (n, h, w, c) that is to be resized by rows (H, h) and columns (W, w), or (n, H, h) and (n, W, w)."""

    x: jax.Array
    rows: jax.Array
    columns: jax.Array


def bilinear_places(length: Any, target: Any, count: int, xp: Any = jnp) -> tuple[Any, Any, Any]:
    """(low, high, share of high): the entries, of `length`, between which each of the first places of `target` lies.

    length, target: whole numbers, or arrays (..., 1) of them; the results are (count,) or (..., count), the share
    float32. xp: jax.numpy, or numpy on the host. As torch.nn.functional.interpolate(mode="bilinear",
    align_corners=False), in its float32 arithmetic.
    """
    length, target = xp.asarray(length, xp.int32), xp.asarray(target, xp.int32)
    scale = length.astype(xp.float32) / target.astype(xp.float32)
    half = xp.float32(0.5)
    source = xp.maximum((xp.arange(count).astype(xp.float32) + half) * scale - half, 0)
    low = xp.minimum(source.astype(xp.int32), length - 1)
    return low, xp.minimum(low + 1, length - 1), source - low.astype(xp.float32)


def bilinear_matrix(
    length: int, target: int, valid: ArrayLike | None = None, valid_target: ArrayLike | None = None
) -> jax.Array:
    """The matrix (target, length) that resizes an axis, half-pixel centres, no antialiasing, borders repeated.

    valid, valid_target: (n,) how many entries of the axis each picture has before and after; the matrix is then
    (n, target, length) and its rows from valid_target on are 0. None: all of them.
    """
    valid, valid_target = (
        jnp.asarray(given if other is None else other, jnp.int32)[..., None]
        for given, other in ((length, valid), (target, valid_target))
    )
    low, high, share = bilinear_places(valid, valid_target, target)
    from_ = jnp.arange(length)
    matrix = jnp.where(from_ == low[..., None], 1 - share[..., None], 0)
    matrix = matrix + jnp.where(from_ == high[..., None], share[..., None], 0)
    return jnp.where((jnp.arange(target) < valid_target)[..., None], matrix, 0)


def adaptive_mean_matrix(length: int, bins: int, valid: ArrayLike | None = None) -> jax.Array:
    """The matrix (bins, length), or (n, bins, length), that averages an axis over bins, which may overlap.

    Bin i goes from floor(i v / bins) up to ceil((i + 1) v / bins) of the v valid entries, as
    torch.nn.functional.adaptive_avg_pool2d.
    """
    valid = jnp.asarray(length if valid is None else valid, jnp.int32)[..., None]
    number = jnp.arange(bins)
    first, end = number * valid // bins, -((-(number + 1) * valid) // bins)
    place = jnp.arange(length)
    inside = (place >= first[..., None]) & (place < end[..., None])
    return inside / (end - first)[..., None].astype(jnp.float32)


@jax.jit
def resize(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """x (n, h, w, c), rows (H, h), columns (W, w), or one for each picture -> (n, H, W, c) of x's dtype."""
    rows, columns = (matrix.astype(x.dtype) for matrix in (rows, columns))
    x = jnp.einsum("nhwc,Hh->nHwc" if rows.ndim == 2 else "nhwc,nHh->nHwc", x, rows)
    return jnp.einsum("nhwc,Ww->nhWc" if columns.ndim == 2 else "nhwc,nWw->nhWc", x, columns)


@jax.jit
def conv_of_resized(x: jax.Array, rows: jax.Array, columns: jax.Array, kernel: jax.Array) -> jax.Array:
    """The 3x3 convolution, zero "same" padding, of a map that is resized first: (n, H, W, d) of x's dtype.

    x, rows, columns: as of `resize`; kernel: (3, 3, c, d) of x's dtype. Where the map is enlarged, resizing it and
    mixing its channels change places: each tap's matrix meets the small map, and what the taps give is resized by the
    matrix moved by the tap. The numbers are the same, at a fraction of the products. On TPU, where nobody has measured
    it, the plain convolution of the resized map.
    """
    early, plain = _convolve_early, _convolve_plain
    if rows.shape[-2] * columns.shape[-2] <= x.shape[1] * x.shape[2]:
        early = plain
    known = mesh_platform()
    if known:
        return (plain if known == "tpu" else early)(x, rows, columns, kernel)
    return jax.lax.platform_dependent(x, rows, columns, kernel, default=early, tpu=plain)


def _convolve_plain(x: jax.Array, rows: jax.Array, columns: jax.Array, kernel: jax.Array) -> jax.Array:
    return conv3x3(resize(x, rows, columns), kernel)


def _convolve_early(x: jax.Array, rows: jax.Array, columns: jax.Array, kernel: jax.Array) -> jax.Array:
    moved_rows, moved_columns = (_moved(matrix.astype(x.dtype)) for matrix in (rows, columns))
    y = jnp.einsum("nhwc,yxcd->nyhxwd", x, kernel)
    y = jnp.einsum("nyhxwd,xWw->nyhWd" if columns.ndim == 2 else "nyhxwd,xnWw->nyhWd", y, moved_columns)
    return jnp.einsum("nyhwd,yHh->nHwd" if rows.ndim == 2 else "nyhwd,ynHh->nHwd", y, moved_rows)


def _moved(matrix: jax.Array) -> jax.Array:
    """(..., H, h) -> (3, ..., H, h): for each tap the row that it reads, 0 beyond the border."""
    padded = jnp.pad(matrix, [(0, 0)] * (matrix.ndim - 2) + [(1, 1), (0, 0)])
    return jnp.stack([padded[..., tap : tap + matrix.shape[-2], :] for tap in range(3)])


@jax.jit
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3 convolution of stride 1, zero "same" padding: x (n, h, w, c), kernel (3, 3, c, d), both of one dtype."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
