"""The nearest neighbours of every point among all points."""

from typing import cast

import jax
import jax.numpy as jnp

from unireplknet_jax.ops.batch import over_batch_shards

_BLOCK = 256  # points whose distances to all others are in memory at a time


def nearest_points(points: jax.Array, count: int) -> jax.Array:
    """The indices (n, N, count) of the nearest among points (n, N, d) of each of them, itself included, nearest first.

    Raises ValueError for more neighbours than there are points.
    """
    total = points.shape[1]
    if not 1 <= count <= total:
        raise ValueError(f"{count} neighbours cannot be found among {total} points.")
    return over_batch_shards(lambda own: _nearest_points(own, count), (points,), ())


def _nearest_points(points: jax.Array, count: int) -> jax.Array:
    n, total, d = points.shape
    block = min(_BLOCK, total)
    padded = jnp.pad(points, ((0, 0), (0, -total % block), (0, 0)))

    def of_block(queries: jax.Array) -> jax.Array:
        # One coordinate after the other: |a|^2 - 2ab + |b|^2 would lose the small distances.
        distance = cast(jax.Array, sum(jnp.square(queries[..., None, i] - points[:, None, :, i]) for i in range(d)))
        # XLA has a fast form for matrices alone.
        return jax.lax.top_k(-distance.reshape(n * block, total), count)[1].reshape(n, block, count)

    blocks = jnp.moveaxis(padded.reshape(n, -1, block, d), 1, 0)
    found = jnp.moveaxis(jax.lax.map(of_block, blocks), 0, 1)
    return found.reshape(n, -1, count)[:, :total].astype(jnp.int32)
