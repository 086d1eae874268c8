"""Attention whose memory grows with the number of tokens, not with its square."""

import jax
import jax.numpy as jnp

_BLOCK = 512  # queries whose scores are in memory at a time


def blockwise_attention(query: jax.Array, key: jax.Array, value: jax.Array, block: int = _BLOCK) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v: (n, t, heads, d), (n, s, heads, d), (n, s, heads, e) -> (n, t, heads, e).

    Exact; the softmax is in float32. The scores of `block` queries are computed at a time, and again for the gradient:
    neither direction holds more than (n, heads, block, s) of them.
    """
    scale = query.shape[-1] ** -0.5

    @jax.checkpoint
    def of_block(queries: jax.Array) -> jax.Array:
        scores = jnp.einsum("nthd,nshd->nhts", queries, key, preferred_element_type=jnp.float32) * scale
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        return jnp.einsum("nhts,nshe->nthe", weights, value)

    n, t, heads, d = query.shape
    if t <= block:
        return of_block(query)
    padded = jnp.pad(query, ((0, 0), (0, -t % block), (0, 0), (0, 0)))
    blocks = jnp.moveaxis(padded.reshape(n, -1, block, heads, d), 1, 0)
    attended = jnp.moveaxis(jax.lax.map(of_block, blocks), 0, 1)
    return attended.reshape(n, -1, heads, value.shape[-1])[:, :t]
