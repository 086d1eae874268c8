"""RoIAlign: the means of bins of regions of interest, exactly those of mmcv 1.5 (aligned, adaptive sampling).

A region is read in windows of 40 x 40 cells of its own map. Those of a pyramid fit one window, unless they are much
longer than wide; then further windows follow, one after the other, and nothing is left out. Of small maps all regions
read all cells, in one product, which takes less time than to cut windows out.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.ops.boxes import areas
from unireplknet_jax.ops.roi_samples import Axis, Tiles, axis_of, over_tiles, span, summed_weights, tiles_of

_WINDOW = 40
_TOGETHER = 8  # regions whose windows are in memory at a time
_WHOLE = 4 * _WINDOW**2  # cells, up to which maps are read as a whole


def roi_align(features: jax.Array, rois: jax.Array, output: int, scale: float) -> jax.Array:
    """features (h, w, c), rois (r, 4) in pixels, scale cells to a pixel -> (r, output, output, c) of features' dtype.

    A bin of a region is the mean of ceil(its height) x ceil(its width) bilinear samples, lengths in cells. A region
    without area, as rows of padding have, is 0. No gradient flows to the regions.
    """
    return _align((features,), rois, jnp.zeros(len(rois), jnp.int32), output, (scale,))


def roi_align_pyramid(
    maps: Sequence[jax.Array],
    rois: jax.Array,
    output: int,
    strides: Sequence[int] = (4, 8, 16, 32),
    finest: float = 56,
) -> jax.Array:
    """`roi_align` of each region on the map of `roi_levels`: maps (h, w, c) of the given strides, rois (r, 4)."""
    levels = roi_levels(rois, len(strides), finest)
    return _align(maps, rois, levels, output, tuple(1 / stride for stride in strides))


def roi_levels(rois: jax.Array, levels: int, finest: float = 56) -> jax.Array:
    """(r,) int32: 0 where the root of the area of rois (r, 4) is below 2 finest, 1 below 4 finest, up to levels - 1."""
    level = jnp.floor(jnp.log2(jnp.sqrt(areas(rois)) / finest + 1e-6))
    return jnp.clip(level, 0, levels - 1).astype(jnp.int32)


def _align(
    maps: Sequence[jax.Array], rois: jax.Array, levels: jax.Array, output: int, scales: Sequence[float]
) -> jax.Array:
    canvas, corners = _side_by_side(maps)
    if len(rois) == 0:
        return jnp.zeros((0, output, output, canvas.shape[-1]), canvas.dtype)
    rois = jax.lax.stop_gradient(rois.astype(jnp.float32))
    scale = jnp.asarray(scales, jnp.float32)[levels]
    lengths = jnp.asarray([each.shape[:2] for each in maps], jnp.int32)[levels]
    rows = axis_of(rois[:, 1], rois[:, 3], scale, lengths[:, 0], output)
    columns = axis_of(rois[:, 0], rois[:, 2], scale, lengths[:, 1], output)
    regions = _Regions(rows, columns, jnp.asarray(corners, jnp.int32)[levels])
    if canvas.shape[0] * canvas.shape[1] <= _WHOLE:
        return _pool_whole(output, canvas, regions)
    return _pool(output, canvas.shape, canvas, regions)


def _side_by_side(maps: Sequence[jax.Array]) -> tuple[jax.Array, np.ndarray]:
    """Maps (h, w, c) in one canvas: the first, below it the others in a row; and their upper left corners (maps, 2)."""
    if len(maps) == 1:
        return maps[0], np.zeros((1, 2), int)
    first, others = maps[0], maps[1:]
    height = max(each.shape[0] for each in others)
    row = jnp.concatenate([jnp.pad(each, ((0, height - each.shape[0]), (0, 0), (0, 0))) for each in others], axis=1)
    width = max(first.shape[1], row.shape[1])
    parts = [jnp.pad(each, ((0, 0), (0, width - each.shape[1]), (0, 0))) for each in (first, row)]
    left = np.cumsum([0, *(each.shape[1] for each in others[:-1])])
    corners = [(0, 0), *((first.shape[0], place) for place in left)]
    return jnp.concatenate(parts), np.array(corners)


class _Regions(NamedTuple):
    """r regions on their maps, which lie in one canvas."""

    rows: Axis
    columns: Axis
    corner: jax.Array  # (r, 2) int32: the upper left of each region's map in the canvas


class _Windows(NamedTuple):
    """k windows of the canvas."""

    place: jax.Array  # (k, 2) int32: the upper left corner
    down: jax.Array  # (k, output, h) float32: the weights of its rows in the sums over each bin, 0 if it does not count
    across: jax.Array  # (k, output, w) float32: and of its columns
    samples: jax.Array  # (k, 1, 1, 1) float32: how many samples each bin has in all


def _windows(shape: tuple[int, int], output: int, regions: _Regions, tiles: Tiles) -> _Windows:
    """The windows of tiles, cut out of a canvas of that shape."""

    def along(axis: Axis, number: jax.Array, corner: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
        first = span(axis, output)[0] + number * _WINDOW
        window = min(_WINDOW, length)
        place = jnp.clip(first + corner, 0, length - window)
        cells = (place - corner)[:, None] + jnp.arange(window)
        weights = summed_weights(axis, output, cells)
        # A window that was moved inwards holds cells of the one before, too.
        return place, jnp.where((cells >= first[:, None])[:, None], weights, 0)

    rows, columns, corner = jax.tree.map(lambda field: field[tiles.region], regions)
    top, down = along(rows, tiles.row, corner[:, 0], shape[0])
    left, across = along(columns, tiles.column, corner[:, 1], shape[1])
    down = jnp.where(tiles.counts[:, None, None], down, 0)
    return _Windows(jnp.stack([top, left], axis=-1), down, across, _sample_counts(rows, columns))


def _first_tiles(regions: int) -> Tiles:
    """One window for each region, all fields (calls, together)."""
    number = jnp.arange(regions + -regions % _TOGETHER).reshape(-1, _TOGETHER)
    zero = jnp.zeros_like(number)
    return Tiles(jnp.minimum(number, regions - 1), zero, zero, number < regions)


def _over_further_tiles(
    output: int, regions: _Regions, add: Callable[[jax.Array, Tiles], jax.Array], sums: jax.Array
) -> jax.Array:
    """`add` called with the windows that regions need beside their first."""
    down, across = (tiles_of(*span(axis, output), _WINDOW) for axis in (regions.rows, regions.columns))
    return over_tiles(down, across, 1, _TOGETHER, add, sums)


def _pool_whole(output: int, canvas: jax.Array, regions: _Regions) -> jax.Array:
    """canvas (h, w, c) -> (r, output, output, c)."""
    down, across = (
        summed_weights(axis, output, jnp.arange(length) - corner[:, None])
        for axis, length, corner in zip(regions[:2], canvas.shape[:2], regions.corner.T, strict=True)
    )
    pooled = _product("riy,yxc->rixc", down, canvas)
    pooled = _product("rjx,rixc->rijc", across, pooled)
    return (pooled / _sample_counts(regions.rows, regions.columns)).astype(canvas.dtype)


def _sample_counts(rows: Axis, columns: Axis) -> jax.Array:
    """(r, 1, 1, 1) float32: how many samples each bin has, 1 where there are none."""
    return jnp.maximum(rows.samples * columns.samples, 1).astype(jnp.float32)[:, None, None, None]


def _product(equation: str, weights: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.einsum(equation, weights.astype(values.dtype), values, precision=jax.lax.Precision.HIGHEST)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _pool(output: int, shape: tuple[int, int, int], canvas: jax.Array, regions: _Regions) -> jax.Array:
    """canvas (h, w, c) of that shape -> (r, output, output, c).

    The windows are cut out again for the gradient: kept, they would be 840 MB for 512 regions of 256 channels.
    """

    def pool(tiles: Tiles) -> jax.Array:
        windows = _windows(shape[:2], output, regions, tiles)
        size = windows.down.shape[2], windows.across.shape[2], shape[2]
        cells = jax.lax.map(lambda place: jax.lax.dynamic_slice(canvas, (place[0], place[1], 0), size), windows.place)
        pooled = _product("kiy,kyxc->kixc", windows.down, cells)
        pooled = _product("kjx,kixc->kijc", windows.across, pooled)
        return (pooled / windows.samples).astype(canvas.dtype)

    count = len(regions.corner)
    _, pooled = jax.lax.scan(lambda _, tiles: (None, pool(tiles)), None, _first_tiles(count))
    pooled = pooled.reshape(-1, output, output, shape[2])[:count]
    return _over_further_tiles(output, regions, lambda sums, tiles: sums.at[tiles.region].add(pool(tiles)), pooled)


def _pool_forward(
    output: int, shape: tuple[int, int, int], canvas: jax.Array, regions: _Regions
) -> tuple[jax.Array, _Regions]:
    return _pool(output, shape, canvas, regions), regions


def _pool_backward(
    output: int, shape: tuple[int, int, int], regions: _Regions, gradient: jax.Array
) -> tuple[jax.Array, None]:
    def add(sums: jax.Array, tiles: Tiles) -> jax.Array:
        windows = _windows(shape[:2], output, regions, tiles)
        spread = (gradient[tiles.region] / windows.samples).astype(gradient.dtype)
        spread = _product("kjx,kijc->kixc", windows.across, spread)
        spread = _product("kiy,kixc->kyxc", windows.down, spread)

        def add_one(number: jax.Array, sums: jax.Array) -> jax.Array:
            start = (windows.place[number, 0], windows.place[number, 1], 0)
            old = jax.lax.dynamic_slice(sums, start, spread.shape[1:])
            return jax.lax.dynamic_update_slice(sums, old + spread[number], start)

        return jax.lax.fori_loop(0, len(spread), add_one, sums)

    sums = jnp.zeros(shape, gradient.dtype)
    sums, _ = jax.lax.scan(lambda sums, tiles: (add(sums, tiles), None), sums, _first_tiles(len(regions.corner)))
    return _over_further_tiles(output, regions, add, sums), None


_pool.defvjp(_pool_forward, _pool_backward)
