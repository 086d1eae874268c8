"""The loss of class logits at a coarse map on the pixels of a fine one, without the fine map of all classes."""

import jax
import jax.numpy as jnp

from unireplknet_jax.ops.resize import bilinear_matrix, resize

_STRIPS = 8


@jax.jit
def pixel_losses(logits: jax.Array, label_map: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(sum of cross-entropies, pixels where the label is best, pixels that count), float32 scalars.

    logits: (n, h, w, classes), resized bilinearly to label_map: (n, H, W), whose negative pixels do not count. The
    resized logits are made a strip of rows at a time, in the backward pass again: 150 classes of 512 x 512 pixels would
    be 157 MB an example, several times.
    """
    height, width = label_map.shape[1:]
    rows = bilinear_matrix(logits.shape[1], height)
    columns = bilinear_matrix(logits.shape[2], width)
    strips = next(count for count in range(min(_STRIPS, height), 0, -1) if height % count == 0)

    def add(sums: jax.Array, strip: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        own_rows, labels = strip
        fine = resize(logits.astype(jnp.float32), own_rows, columns)
        known = labels >= 0
        best = jnp.max(fine, axis=-1)
        own = jnp.take_along_axis(fine, jnp.maximum(labels, 0)[..., None].astype(jnp.int32), axis=-1)[..., 0]
        losses = jax.nn.logsumexp(fine, axis=-1) - own
        found = [jnp.where(known, losses, 0), known & (own >= best), known]
        return sums + jnp.stack([jnp.sum(each, dtype=jnp.float32) for each in found]), None

    strip_rows = rows.reshape(strips, height // strips, -1)
    strip_labels = jnp.moveaxis(label_map.reshape(len(label_map), strips, height // strips, width), 1, 0)
    sums, _ = jax.lax.scan(jax.checkpoint(add), jnp.zeros(3), (strip_rows, strip_labels))
    return tuple(sums)
