"""Points to pictures: rotations into views, the pixels that points fall on, and sums of features there.

Original: Point/models/layers/encoder.py (`ProjEnc`). The projection is orthographic and knows neither occlusion nor the
third coordinate; every cloud fills its picture, so moving it changes nothing.
"""

from typing import cast

import jax
import jax.numpy as jnp

NEIGHBOURHOOD = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))


def euler_matrices(angles: jax.Array) -> jax.Array:
    """Rx(a) Ry(b) Rz(c) of angles (..., 3) in radians: (..., 3, 3) in float32."""
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    zero, one = jnp.zeros_like(sine[..., 0]), jnp.ones_like(sine[..., 0])

    def matrix(*entries: jax.Array) -> jax.Array:
        return jnp.stack(entries, axis=-1).reshape(*angles.shape[:-1], 3, 3)

    (sx, sy, sz), (cx, cy, cz) = (jnp.moveaxis(a, -1, 0) for a in (sine, cosine))
    about_x = matrix(one, zero, zero, zero, cx, -sx, zero, sx, cx)
    about_y = matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    about_z = matrix(cz, -sz, zero, sz, cz, zero, zero, zero, one)
    return _product(_product(about_x, about_y), about_z)


def view_points(points: jax.Array, views: jax.Array) -> jax.Array:
    """Points (n, N, 3) seen from views (v, 2, 3), each of Euler angles and a translation: R p - t, (n, v, N, 3)."""
    rotated = _product(points[:, None], jnp.swapaxes(euler_matrices(views[:, 0]), -1, -2))
    return rotated - views[:, None, 1]


def transformed(points: jax.Array, matrices: jax.Array) -> jax.Array:
    """Points (..., N, 3) by matrices (..., 3, 3), M p, in full float32."""
    return _product(points, jnp.swapaxes(matrices, -1, -2))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)  # a wrong digit is another pixel


def pixels_of(points: jax.Array, size: int) -> jax.Array:
    """The pixels (..., N, 2), (row, column), around which points (..., N, 2 or more) are drawn in size x size pictures.

    Of each point the first coordinate gives the row, the second the column. The longer side of the bounding box spans
    the picture, the shorter is in its middle. All pixels have all eight neighbours. Points that are all one fall
    together. size: 4 to 4096. Pixels are those of float32 as IEEE 754 rounds it, whatever a platform's division is.
    """
    xy, last = jax.lax.stop_gradient(points[..., :2]), size - 3
    offset = xy - jnp.min(xy, axis=-2, keepdims=True)
    extent = jnp.max(offset, axis=(-2, -1), keepdims=True)
    cell = jnp.minimum(_whole_quotient(offset, jnp.where(extent > 0, _quotient(extent, last), 1.0)), last)
    middle = (jnp.max(cell, axis=-2, keepdims=True) + 2) // 2
    return cell + (size - 1) // 2 - middle + 1


# XLA multiplies by reciprocals, on CPU, too, where a last digit decides about pixels at the edges of cells.


def _quotient(a: jax.Array, whole: int) -> jax.Array:
    """a / whole, rounded to the nearest number of float32; whole: of at most 12 bits."""
    near = a / whole
    candidates = jnp.stack([jnp.nextafter(near, 0.0), near, jnp.nextafter(near, jnp.inf)])
    errors = jnp.abs(_remainder(a, whole, candidates))
    return jnp.take_along_axis(candidates, jnp.argmin(errors, axis=0)[None], axis=0)[0]


def _whole_quotient(a: jax.Array, b: jax.Array) -> jax.Array:
    """floor(a / b), where a / b is rounded to the nearest number of float32, as int32; a >= 0, of at most 12 bits."""
    near = jnp.round(a / b)
    gap = near - jnp.nextafter(near, -1.0)  # what is less than half of it below rounds up
    return (near - (_remainder(a, near, b) < -gap / 2 * b)).astype(jnp.int32)


def _remainder(a: jax.Array, whole: int | jax.Array, b: jax.Array) -> jax.Array:
    """a - whole * b, exact where it is small: whole has at most 12 bits, and so have both halves of b."""
    high = jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(b, jnp.int32) & ~0xFFF, jnp.float32)
    return (a - whole * high) - whole * (b - high)


def flat_pixels(pixels: jax.Array, size: int) -> jax.Array:
    """The flat indices (..., 9 N) of the pixels (..., N, 2) and their neighbours, in the order of `NEIGHBOURHOOD`."""
    around = pixels[..., None, :] + jnp.asarray(NEIGHBOURHOOD)
    return (around[..., 0] * size + around[..., 1]).reshape(*pixels.shape[:-2], -1)


def splat(features: jax.Array, pixels: jax.Array, size: int) -> jax.Array:
    """Pictures (n, v, size, size, c) of features (n, N, c), each added at its pixel (n, v, N, 2) and the eight around.

    What falls on one pixel is summed; pixels without points are 0.
    """

    def one_view(features: jax.Array, flat: jax.Array) -> jax.Array:
        return jnp.zeros((size * size, features.shape[-1]), features.dtype).at[flat].add(features)

    flat = pixels[..., 0] * size + pixels[..., 1]
    sums = jax.vmap(jax.vmap(one_view, in_axes=(None, 0)))(features, flat)
    sums = sums.reshape(*flat.shape[:2], size, size, -1)
    # A ninth of the scattered additions: each pixel is scattered once, and spread by sums of shifted pictures.
    for axis in (2, 3):
        sums = _with_both_sides(sums, axis)
    return sums


def _with_both_sides(x: jax.Array, axis: int) -> jax.Array:
    """Every entry plus the one before and the one after it along an axis."""
    width = [(0, 0)] * x.ndim
    width[axis] = (1, 1)
    padded, size = jnp.pad(x, width), x.shape[axis]
    return cast(jax.Array, sum(jax.lax.slice_in_dim(padded, start, start + size, axis=axis) for start in range(3)))
