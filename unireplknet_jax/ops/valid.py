"""Pictures of several sizes in one canvas: each lies in the upper left, and zeros are beyond its rows and columns."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnums=1)
def valid_mask(sizes: jax.Array, canvas: tuple[int, int]) -> jax.Array:
    """(n, h, w, 1) bool: the valid positions, sizes (n, 2) rows and columns, of maps in a canvas of (h, w)."""
    rows, columns = (jnp.arange(length) < valid[:, None] for length, valid in zip(canvas, sizes.T, strict=True))
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def only_valid(x: jax.Array, valid: jax.Array | None) -> jax.Array:
    """x (n, h, w, c) with zeros wherever `valid` (n, h, w, 1) is False; None: all of it is valid."""
    return x if valid is None else jnp.where(valid, x, jnp.zeros((), x.dtype))


def halved(sizes: jax.Array) -> jax.Array:
    """The sizes behind a convolution of stride 2, which rounds up."""
    return (sizes + 1) // 2


def sizes_of_maps(sizes: jax.Array | None, count: int) -> list[jax.Array] | None:
    """The sizes (n, 2) of pictures in `count` maps, at strides 4, 8, 16 and so on; None for all of every map."""
    if sizes is None:
        return None
    found = [halved(halved(sizes))]
    while len(found) < count:
        found.append(halved(found[-1]))
    return found


def areas(valid: jax.Array) -> jax.Array:
    """(n, h, w, 1) bool -> (n,) float32: how many positions of each map are valid."""
    return jnp.sum(valid, axis=(1, 2, 3), dtype=jnp.float32)
