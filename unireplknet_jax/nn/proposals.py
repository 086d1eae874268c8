"""Where objects may be: a small head over the maps of a pyramid that scores and moves three anchors at each position.

Paper: Ren et al., "Faster R-CNN", 2015. Original: RPNHead of mmdetection 2.28.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from unireplknet_jax.nn.feature_pyramid import Conv, valid_masks
from unireplknet_jax.ops.batch import of_examples
from unireplknet_jax.ops.boxes import decode, nms

RATIOS = (0.5, 1.0, 2.0)  # heights of anchors as a share of their widths
UNIT_STDS = np.ones(4, np.float32)
OVERLAP = 0.7  # of proposals, above which the one with the lower score goes
head_init = nn.initializers.normal(stddev=0.01)


class Scored(NamedTuple):
    """What the head says of the anchors of one map, a at every position: row by row, in a row position by position.

    logits: (n, h w a) that an object is there, float32; deltas: (n, h w a, 4) that move the anchor to it, float32;
    inside: (n, h w a), False beyond the frame of a picture.
    """

    logits: jax.Array
    deltas: jax.Array
    inside: jax.Array


class Proposals(NamedTuple):
    """boxes: (n, r, 4), best first; scores: (n, r) in 0..1; valid: (n, r), False for rows that hold nothing."""

    boxes: jax.Array
    scores: jax.Array
    valid: jax.Array


class RPNHead(nn.Module):
    """One 3x3 convolution and two 1x1 ones, the same for every map."""

    channels: int = 256
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], sizes: jax.Array | None = None) -> list[Scored]:
        """maps: (n, h, w, c) at strides 4, 8, ...; sizes: the frames of the pictures, as of `FeaturePyramid`."""
        shared = Conv(self.channels, 3, head_init, self.dtype, name="rpn_conv")
        score = Conv(len(RATIOS), 1, head_init, name="rpn_cls")
        move = Conv(4 * len(RATIOS), 1, head_init, name="rpn_reg")
        found = []
        for x, valid in zip(maps, valid_masks(sizes, maps), strict=True):
            y = nn.relu(shared(x))
            logits, deltas = score(y), move(y)
            inside = jnp.ones(logits.shape, bool) if valid is None else jnp.broadcast_to(valid, logits.shape)
            n = x.shape[0]
            found.append(Scored(logits.reshape(n, -1), deltas.reshape(n, -1, 4), inside.reshape(n, -1)))
        return found


def propose(
    scored: Sequence[Scored], anchors: Sequence[jax.Array], sizes: jax.Array, of_level: int, kept: int
) -> Proposals:
    """The `kept` best boxes of each picture, after the `of_level` best of each map are thinned out among themselves.

    anchors: (h w a, 4) of each map; sizes: (n, 2), rows and columns of the pictures, to which boxes are clipped.
    """

    def of_picture(levels: Sequence[Scored], size: jax.Array, anchors: Sequence[jax.Array]) -> Proposals:
        candidates = [_best_of_map(one, own, of_level) for one, own in zip(levels, anchors, strict=True)]
        scores, own, deltas = (jnp.stack(parts) for parts in zip(*candidates, strict=True))
        boxes = decode(own, deltas, UNIT_STDS, size)
        valid = (scores >= 0) & (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
        # Boxes of different maps do not suppress each other.
        thin_out = jax.vmap(lambda boxes, scores, valid: nms(boxes, scores, OVERLAP, of_level, valid=valid))
        rows, valid = thin_out(boxes, scores, valid)
        boxes = jnp.take_along_axis(boxes, rows[..., None], axis=1).reshape(-1, 4)
        scores = jnp.where(valid, jnp.take_along_axis(scores, rows, axis=1), -1).reshape(-1)
        scores, best = jax.lax.top_k(scores, min(kept, len(scores)))
        return Proposals(boxes[best], scores, scores >= 0)

    return of_examples(of_picture, (list(scored), sizes), (list(anchors),))


def _best_of_map(scored: Scored, anchors: jax.Array, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The scores (count,) in 0..1, anchors (count, 4) and deltas (count, 4) of the best of one map of one picture.

    Rows that hold nothing, for there are fewer, have the score -1.
    """
    scores = jnp.where(scored.inside, jax.nn.sigmoid(scored.logits), -1)
    scores, best = jax.lax.top_k(scores, min(count, len(scores)))
    missing = count - len(best)
    best = jnp.pad(best, (0, missing))
    return jnp.pad(scores, (0, missing), constant_values=-1), anchors[best], scored.deltas[best]
