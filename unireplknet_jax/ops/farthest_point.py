"""Farthest point sampling: a subset of points that are spread over all of them."""

import jax
import jax.numpy as jnp


def farthest_points(points: jax.Array, count: int, start: int = 0) -> jax.Array:
    """The indices (n, count) of points (n, N, d): each is the farthest from those before it; the first is `start`.

    Equally far points: the one that comes first. None is chosen twice, so of a cloud whose points are repeated, to fill
    it up, all are chosen equally often. The CUDA operator that the original calls passes over points near the origin,
    which its users do not want. Raises ValueError for more points than there are.
    """
    total = points.shape[1]
    if not 1 <= count <= total or not 0 <= start < total:
        raise ValueError(f"{count} points from number {start} on cannot be chosen out of {total}.")

    def step(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        distance, last = carry
        chosen = jnp.take_along_axis(points, last[:, None, None], axis=1)
        distance = jnp.minimum(distance, jnp.sum(jnp.square(points - chosen), axis=-1))
        distance = jnp.where(jnp.arange(total) == last[:, None], -jnp.inf, distance)
        return (distance, jnp.argmax(distance, axis=-1).astype(jnp.int32)), last

    n = points.shape[0]
    first = jnp.full((n, total), jnp.inf, points.dtype), jnp.full((n,), start, jnp.int32)
    return jax.lax.scan(step, first, length=count)[1].T
