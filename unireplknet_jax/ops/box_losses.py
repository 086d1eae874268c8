"""The losses of a detector, one for each row, and their sums over the rows that count.

All are float32 and finite, gradients included, for rows of padding too: boxes of zeros, any label in range.
"""

import jax
import jax.numpy as jnp

from unireplknet_jax.ops.boxes import overlap


def smooth_l1(deltas: jax.Array, targets: jax.Array, beta: float = 1 / 9) -> jax.Array:
    """(..., 4) twice -> (...): the sum over the four of a square below a difference of beta, of a line beyond it."""
    size = jnp.abs(deltas - targets)
    return jnp.sum(jnp.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta), axis=-1)


def giou_loss(boxes: jax.Array, targets: jax.Array) -> jax.Array:
    """(..., 4) twice -> (...): 1 - GIoU, from 0 for equal boxes to 2 for boxes far apart."""
    return 1 - overlap(boxes, targets, "giou")


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """logits (..., classes), labels (...) int -> (...)."""
    logits = logits.astype(jnp.float32)
    own = jnp.take_along_axis(logits, labels[..., None].astype(jnp.int32), axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - own


def binary_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """logits (...), targets (...) from 0 to 1 or bool -> (...)."""
    logits, targets = logits.astype(jnp.float32), jnp.asarray(targets, jnp.float32)
    return targets * jax.nn.softplus(-logits) + (1 - targets) * jax.nn.softplus(logits)


def masked_sum(losses: jax.Array, mask: jax.Array) -> jax.Array:
    """losses (rows, ...), mask (rows, ...) bool with as many axes or fewer -> the sum over the rows of the mask, ()."""
    mask = mask.reshape(*mask.shape, *[1] * (losses.ndim - mask.ndim))
    return jnp.sum(jnp.where(mask, losses, 0))
