"""Where RoIAlign reads a map along one axis, and in which windows: what pooling features and masks have in common.

RoIAlign averages bilinear samples. A sample's weights are a product of one of its row and one of its column, the rule
for samples beyond the border included, and so are the sums over a bin's samples. So a window of the map is pooled by
two products, with weights (bins, rows) and (bins, columns). A region that is longer than a window has several.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Carry = TypeVar("Carry")


class Axis(NamedTuple):
    """One axis of r regions, on the map that each is read from. All fields: (r,)."""

    start: jax.Array  # float32: where the first bin begins, in cells; the first cell's centre is 0
    step: jax.Array  # float32: the length of a bin, in cells
    samples: jax.Array  # int32: samples in a bin, 0 of an empty region
    length: jax.Array  # int32: cells of the map


def axis_of(low: jax.Array, high: jax.Array, scale: ArrayLike, length: ArrayLike, bins: int) -> Axis:
    """The axis of regions from low (r,) to high (r,) pixels, scale cells to a pixel, in maps of length cells."""
    start = low * scale - 0.5
    # A divisor that depends on the data: by a constant a compiler multiplies, with its rounded inverse.
    step = (high * scale - 0.5 - start) / jnp.where(high >= low, bins, 1)
    count = jnp.maximum(jnp.ceil(step), 0).astype(jnp.int32)
    return Axis(start, step, count, jnp.broadcast_to(jnp.asarray(length, jnp.int32), start.shape))


def _samples(axis: Axis, of_bin: jax.Array | int, number: jax.Array | int) -> jax.Array:
    """Where sample `number` of bin `of_bin` lies; fields and arguments broadcast.

    The selection keeps a compiler from rounding product and sum at once, which mmcv does not: far from the origin it
    is the last digit of a place that the results differ in.
    """
    bin_start = axis.start + jnp.where(jnp.asarray(of_bin) > 0, of_bin * axis.step, 0)
    return bin_start + (number + 0.5) * axis.step / jnp.maximum(axis.samples, 1)


def span(axis: Axis, bins: int) -> tuple[jax.Array, jax.Array]:
    """The first and the last cell, (r,) int32, that the samples read."""
    first, last = _samples(axis, 0, 0), _samples(axis, bins - 1, axis.samples - 1)
    # Clipped before they become integers, which hold less.
    first, last = (jnp.clip(jnp.floor(place), -1, axis.length) for place in (first, last))
    low, high = (jnp.clip(place.astype(jnp.int32), 0, axis.length - 1) for place in (first, last + 1))
    return low, jnp.maximum(high, low)


def summed_weights(axis: Axis, bins: int, cells: jax.Array) -> jax.Array:
    """(r, bins, k): how much of each of the cells (r, k) is in the sum of a bin's samples.

    A sample more than one cell outside counts as 0 there; any other is moved onto the map. The loop is as long as the
    largest number of samples.
    """
    spread = Axis(*(field[:, None] for field in axis))
    distance_to = cells[:, None].astype(jnp.float32)

    def add(number: jax.Array, total: jax.Array) -> jax.Array:
        place = _samples(spread, jnp.arange(bins), number)
        counts = (place >= -1) & (place <= spread.length) & (number < spread.samples)
        place = jnp.clip(place, 0, spread.length - 1)
        near = jnp.maximum(1 - jnp.abs(place[..., None] - distance_to), 0)
        return total + jnp.where(counts[..., None], near, 0)

    return jax.lax.fori_loop(0, jnp.max(axis.samples), add, jnp.zeros((len(cells), bins, cells.shape[1])))


class Tiles(NamedTuple):
    """Windows that regions are read in."""

    region: jax.Array  # (k,) int32: the number of each window's region
    row: jax.Array  # (k,) int32: its place among the windows of the region, from above
    column: jax.Array  # (k,) int32: and from the left
    counts: jax.Array  # (k,) bool: False for one too many


def tiles_of(low: jax.Array, high: jax.Array, window: int) -> jax.Array:
    """How many windows hold the cells from low (r,) to high (r,)."""
    return (high - low) // window + 1


def over_tiles(
    down: jax.Array, across: jax.Array, skip: int, together: int, add: Callable[[Carry, Tiles], Carry], carry: Carry
) -> Carry:
    """What add(carry, tiles) makes of carry, called again and again until each region's windows have been given once.

    down, across (r,): how many windows a region has one below the other and side by side. The first `skip` of each are
    left out. together: how many a call is given. The number of calls depends on the data.
    """
    listed = jnp.maximum(down * across - skip, 0)
    ends = jnp.cumsum(listed)

    def step(state: tuple[jax.Array, Carry]) -> tuple[jax.Array, Carry]:
        start, carry = state
        number = start + jnp.arange(together)
        region = jnp.minimum(jnp.searchsorted(ends, number, side="right"), len(ends) - 1)
        row, column = jnp.divmod(number - (ends - listed)[region] + skip, jnp.maximum(across[region], 1))
        return start + together, add(carry, Tiles(region, row, column, number < ends[-1]))

    return jax.lax.while_loop(lambda state: state[0] < ends[-1], step, (jnp.int32(0), carry))[1]
