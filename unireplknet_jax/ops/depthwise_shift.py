"""Depthwise convolution as a sum of shifted and scaled inputs: one multiply-add per tap; for small kernels.

On a CPU a loop over the examples: what one example needs stays in a core's cache, and the compiler cannot compute the
sum again in everything that reads it (a batch norm reads it five times). On a GPU one kernel computes all of them.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

_UNROLLED = 25  # taps of the largest kernel that is unrolled: the compiled program grows with them


def convolve(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """x: (n, h, w, c), kernel: (kh, kw, 1, c), odd kh and kw -> (n, h, w, c), zero "same" padding, stride 1."""
    kh, kw = kernel.shape[:2]

    def one(x: jax.Array, taps: jax.Array) -> jax.Array:
        shifted = _shifts(x, kernel.shape, dilation)

        def scaled(tap: int) -> jax.Array:  # `taps[tap]` by a number would be traced at length
            return shifted(tap) * jax.lax.slice_in_dim(taps, tap, tap + 1)[None]

        y = scaled(0)
        if kh * kw > _UNROLLED:
            y = jax.lax.fori_loop(1, kh * kw, lambda tap, y: y + shifted(tap) * taps[tap], y)
        else:
            for tap in range(1, kh * kw):
                y = y + scaled(tap)
        return y.astype(x.dtype)

    return jax.lax.platform_dependent(
        x,
        kernel.reshape(kh * kw, -1).astype(jnp.promote_types(x.dtype, jnp.float32)),
        cuda=lambda x, taps: jax.vmap(one, (0, None))(x, taps),
        default=lambda x, taps: jax.lax.map(lambda x: one(x, taps), x),
    )


def kernel_gradient(x: jax.Array, g: jax.Array, kernel_shape: Sequence[int], dilation: int) -> jax.Array:
    """The cotangent of the kernel, (kh, kw, 1, c), float32 at least, for the output cotangent g: (n, h, w, c)."""
    kh, kw = kernel_shape[:2]

    def one(x: jax.Array, g: jax.Array) -> jax.Array:
        shifted, g = _shifts(x, kernel_shape, dilation), g.astype(jnp.promote_types(g.dtype, jnp.float32))
        if kh * kw <= _UNROLLED:
            return _sums([shifted(tap) * g for tap in range(kh * kw)])
        return jax.lax.map(lambda tap: jnp.sum(shifted(tap) * g, axis=(0, 1)), jnp.arange(kh * kw))

    total = jax.lax.fori_loop(1, len(x), lambda i, total: total + one(x[i], g[i]), one(x[0], g[0]))
    return total.reshape(kernel_shape)


def _shifts(x: jax.Array, kernel_shape: Sequence[int], dilation: int) -> Callable[[int | jax.Array], jax.Array]:
    """The function from a tap to what it meets of x (h, w, c), in float32 at least."""
    rows, columns = (k // 2 * dilation for k in kernel_shape[:2])
    padded = jnp.pad(x, ((rows, rows), (columns, columns), (0, 0)))
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def shifted(tap: int | jax.Array) -> jax.Array:
        row, column = tap // kernel_shape[1] * dilation, tap % kernel_shape[1] * dilation
        if isinstance(row, int) and isinstance(column, int):
            y = jax.lax.slice(padded, (row, column, 0), (row + x.shape[0], column + x.shape[1], x.shape[2]))
        else:
            y = jax.lax.dynamic_slice(padded, (row, column, 0), x.shape)
        return jax.lax.convert_element_type(y, wide)

    return shifted


def _sums(arrays: Sequence[jax.Array]) -> jax.Array:
    """The sums of several (h, w, c) over h and w: (arrays, c). One reduction: it reads what they share only once."""
    zeros = [jnp.zeros((), arrays[0].dtype)] * len(arrays)
    return jnp.stack(jax.lax.reduce(arrays, zeros, lambda a, b: [x + y for x, y in zip(a, b, strict=True)], (0, 1)))
