"""What a mask head learns: the bitmaps of instances, seen through regions, by RoIAlign from packed bits."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from unireplknet_jax.ops.boxes import clip
from unireplknet_jax.ops.roi_samples import Tiles, axis_of, over_tiles, span, summed_weights, tiles_of

_WINDOW = 64  # pixels, whole bytes
_TOGETHER = 32  # windows that are unpacked at a time


def mask_targets(
    bits: jax.Array, crops: jax.Array, rois: jax.Array, owner: jax.Array, size: ArrayLike, output: int = 28
) -> jax.Array:
    """(r, output, output) bool: whether at least half of each bin of regions (r, 4) is in the bitmap of its instance.

    bits: (b,) uint8, the bitmaps of all instances one after the other, each cut to a rectangle outside of which it is
    empty, its rows as numpy.packbits(rows, axis=-1) makes them. crops: (g, 5) int32, the first byte of each, and its
    rectangle's top, left, height and width. owner: (r,) int, which instance a region is of. size: (2,) rows and columns
    of a whole bitmap, to which regions are clipped. Half is measured as RoIAlign does at scale 1. Only windows in which
    a region meets its instance's rectangle are unpacked.
    """
    if len(bits) == 0 or len(rois) == 0:
        return jnp.zeros((len(rois), output, output), bool)
    height, width = jnp.asarray(size, jnp.int32)
    bits, rois = jnp.asarray(bits), clip(jax.lax.stop_gradient(jnp.asarray(rois, jnp.float32)), size)
    crop = jnp.asarray(crops)[owner]
    rows = axis_of(rois[:, 1], rois[:, 3], 1, height, output)
    columns = axis_of(rois[:, 0], rois[:, 2], 1, width, output)
    top, down = _met(*span(rows, output), crop[:, 1], crop[:, 3])
    left, across = _met(*span(columns, output), crop[:, 2], crop[:, 4])

    def add(sums: jax.Array, tiles: Tiles) -> jax.Array:
        own_rows, own_columns, own_crop = jax.tree.map(lambda field: field[tiles.region], (rows, columns, crop))
        corner = top[tiles.region] + tiles.row * _WINDOW, left[tiles.region] + tiles.column * _WINDOW
        cells = [place[:, None] + jnp.arange(_WINDOW) for place in corner]
        bitmap = _unpacked(bits, own_crop, *corner) & tiles.counts[:, None, None]
        of_rows, of_columns = (
            summed_weights(axis, output, own) for axis, own in zip((own_rows, own_columns), cells, strict=True)
        )
        exact = jax.lax.Precision.HIGHEST
        part = jnp.einsum("kiy,kyx->kix", of_rows, bitmap.astype(jnp.float32), precision=exact)
        return sums.at[tiles.region].add(jnp.einsum("kix,kjx->kij", part, of_columns, precision=exact))

    sums = over_tiles(down, across, 0, _TOGETHER, add, jnp.zeros((len(rois), output, output)))
    samples = jnp.maximum(rows.samples * columns.samples, 1)
    return sums >= 0.5 * samples[:, None, None]


def _met(low: jax.Array, high: jax.Array, start: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the windows begin that hold what of low to high (r,) is in a rectangle from start on, and their number.

    They begin where bytes do.
    """
    low, high = jnp.maximum(low, start), jnp.minimum(high, start + length - 1)
    begin = start + (low - start) // 8 * 8
    return begin, jnp.where(high >= low, tiles_of(begin, high, _WINDOW), 0)


def _unpacked(bits: jax.Array, crop: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
    """(k, window, window) bool: the bitmaps of crops (k, 5) from top and left (k,) on."""
    first, crop_top, crop_left, height, width = (field[:, None, None] for field in crop.T)
    pitch = (width + 7) // 8
    row = (top[:, None] + jnp.arange(_WINDOW))[..., None] - crop_top
    byte = (left[:, None, None] - crop_left) // 8 + jnp.arange(_WINDOW // 8)
    inside = (row >= 0) & (row < height) & (byte >= 0) & (byte < pitch)
    place = jnp.where(inside, first + row * pitch + byte, 0)
    packed = jnp.where(inside, bits[place], 0)
    shift = jnp.arange(7, -1, -1, dtype=jnp.uint8)
    return ((packed[..., None] >> shift) & 1).astype(bool).reshape(len(crop), _WINDOW, _WINDOW)
