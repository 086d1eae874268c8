"""Boxes: overlaps, deltas against anchors, the anchors themselves, and non-maximum suppression.

A box is (..., 4) float32: x1, y1, x2, y2 in pixels, its width x2 - x1. Every function has static shapes; rows that are
padding are named by a mask. The formulas are those of mmdetection 2.28 and mmcv 1.5.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Mode = Literal["iou", "iof", "giou"]

SMALLEST = 1e-6  # what areas and sizes that are divided by are at least
_LONGEST = 1000 / 16  # how many times its anchor's length a decoded box has at most
_MATRIX = 4096  # of more boxes than this, not every pair is compared


def iou(a: jax.Array, b: jax.Array, mode: Mode = "iou") -> jax.Array:
    """(n, m): the overlap of each of the boxes a (n, 4) with each of b (m, 4), as `overlap`."""
    return overlap(a[:, None], b[None], mode)


def overlap(a: jax.Array, b: jax.Array, mode: Mode = "iou") -> jax.Array:
    """The overlaps (...) of boxes a (..., 4) with b (..., 4), which broadcast.

    "iou": intersection over union; "iof": intersection over a's area; "giou": iou minus the share of the smallest box
    around both that belongs to neither. Boxes without area overlap nothing. Raises ValueError for another mode.
    """
    if mode not in ("iou", "iof", "giou"):
        raise ValueError(f"mode is {mode!r}, which is no kind of overlap; give 'iou', 'iof' or 'giou'.")
    shared, union = _shared_and_union(a, b)
    if mode == "iof":
        return shared / jnp.where(shared > 0, jnp.maximum(areas(a), SMALLEST), 1)
    union = jnp.maximum(union, SMALLEST)
    if mode == "iou":
        return shared / union
    width = jnp.maximum(a[..., 2], b[..., 2]) - jnp.minimum(a[..., 0], b[..., 0])
    height = jnp.maximum(a[..., 3], b[..., 3]) - jnp.minimum(a[..., 1], b[..., 1])
    around = jnp.maximum(_area(width, height), SMALLEST)
    return shared / union - (around - union) / around


def areas(boxes: jax.Array) -> jax.Array:
    """(..., 4) -> (...): the areas of boxes, 0 of those that have none."""
    return _area(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])


def _area(width: jax.Array, height: jax.Array) -> jax.Array:
    """width * height, 0 where one is negative.

    The selection also keeps a compiler from rounding product and a following sum at once, which PyTorch does not.
    """
    return jnp.where((width < 0) | (height < 0), 0, width * height)


def _shared_and_union(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    width = jnp.minimum(a[..., 2], b[..., 2]) - jnp.maximum(a[..., 0], b[..., 0])
    height = jnp.minimum(a[..., 3], b[..., 3]) - jnp.maximum(a[..., 1], b[..., 1])
    shared = _area(width, height)
    return shared, areas(a) + areas(b) - shared


def encode(anchors: jax.Array, boxes: jax.Array, stds: ArrayLike) -> jax.Array:
    """(..., 4): what moves anchors (..., 4) onto boxes (..., 4): shifts of the centre and logarithms of the growth.

    Shifts are in units of the anchor's size; all are divided by stds (4,). Lengths count as at least SMALLEST, so that
    rows of padding give finite numbers.
    """
    own, wanted = _centres_and_sizes(anchors), _centres_and_sizes(boxes)
    own_size, wanted_size = jnp.maximum(own[1], SMALLEST), jnp.maximum(wanted[1], SMALLEST)
    deltas = jnp.concatenate([(wanted[0] - own[0]) / own_size, jnp.log(wanted_size / own_size)], axis=-1)
    return deltas / jnp.asarray(stds, deltas.dtype)


def decode(anchors: jax.Array, deltas: jax.Array, stds: ArrayLike, max_size: ArrayLike | None = None) -> jax.Array:
    """(..., 4): the boxes that deltas (..., 4) make of anchors (..., 4), which broadcast; the inverse of `encode`.

    Deltas of several classes, (n, classes, 4), meet anchors[:, None]. No box becomes more than 62.5 times as long as
    its anchor or shorter than that part of it. max_size: (..., 2) rows and columns of the picture to which boxes are
    clipped; None: they are not.
    """
    centre, size = _centres_and_sizes(anchors)
    deltas = deltas * jnp.asarray(stds, deltas.dtype)
    centre = centre + size * deltas[..., :2]
    limit = float(np.log(_LONGEST))
    half = size * jnp.exp(jnp.clip(deltas[..., 2:], -limit, limit)) * 0.5
    boxes = jnp.concatenate([centre - half, centre + half], axis=-1)
    return boxes if max_size is None else clip(boxes, max_size)


def clip(boxes: jax.Array, max_size: ArrayLike) -> jax.Array:
    """The parts of boxes (..., 4) inside a picture of max_size (..., 2) rows and columns."""
    size = jnp.asarray(max_size, boxes.dtype)
    return jnp.clip(boxes, 0, size[..., np.array([1, 0, 1, 0])])


def _centres_and_sizes(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(..., 4) -> centres (..., 2) and widths with heights (..., 2)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) * 0.5, high - low


def anchors(
    map_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    scale: float = 8,
    ratios: Sequence[float] = (0.5, 1, 2),
) -> tuple[jax.Array, ...]:
    """The anchors (h * w * ratios, 4) of each map of (h, w) cells: row by row, in a cell one for each ratio.

    A cell's anchors have the area (scale * stride)^2 and the given heights per width. Their centre is the upper left
    corner of the cell.
    """
    found = []
    for (rows, columns), stride in zip(map_sizes, strides, strict=True):
        longer = np.sqrt(np.asarray(ratios, np.float32))
        widths, heights = (np.float32(stride) * by * np.float32(scale) for by in (1 / longer, longer))
        cell = np.float32(0.5) * np.stack([-widths, -heights, widths, heights], axis=-1)
        x, y = (jnp.arange(count, dtype=jnp.float32) * stride for count in (columns, rows))
        y, x = jnp.meshgrid(y, x, indexing="ij")
        found.append((jnp.stack([x, y, x, y], axis=-1)[:, :, None] + cell).reshape(-1, 4))
    return tuple(found)


def nms(
    boxes: jax.Array,
    scores: jax.Array,
    threshold: float,
    max_out: int,
    labels: jax.Array | None = None,
    valid: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Non-maximum suppression: (indices (max_out,) int32 of the boxes that stay, best first; valid (max_out,)).

    boxes: (n, 4); scores: (n,); a box goes if its overlap with a better one that stays is above the threshold, not if
    it equals it. Of equal scores the first is the better one. labels: (n,) int: only boxes of one label suppress each
    other, by `shifted`. valid: (n,) bool, the rows that are no padding. Where fewer than max_out stay, valid is False
    and the index 0. No gradient flows.
    """
    boxes, scores = (jax.lax.stop_gradient(jnp.asarray(given)) for given in (boxes, scores))
    valid = jnp.ones(len(scores), bool) if valid is None else valid
    if len(scores) == 0:
        return jnp.zeros(max_out, jnp.int32), jnp.zeros(max_out, bool)
    if labels is not None:
        boxes = shifted(boxes, labels, valid)
    # Comparing all pairs has fewer steps; the rounds need memory for one row of them alone.
    few = 5 * max_out < len(scores)
    order = jnp.argsort(-scores)
    form = _by_rounds if few or len(scores) > _MATRIX else _by_matrix
    places, found = form(boxes[order], valid[order], threshold, max_out)
    return jnp.where(found, order[places], 0).astype(jnp.int32), found


def shifted(boxes: jax.Array, labels: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Boxes (n, 4), moved right and down by label * (1 + the largest coordinate), where labels do not meet each other.

    As mmcv does before it suppresses, in float32: boxes of label 79 in a picture of 1,333 pixels are rounded to
    0.008 pixels, which decides some overlaps near the threshold. labels: (n,) int; valid: (n,) bool or None: all.
    """
    largest = jnp.max(boxes if valid is None else jnp.where(valid[:, None], boxes, -jnp.inf), initial=-jnp.inf)
    step = jnp.where(jnp.isfinite(largest), largest, 0) + 1
    # Without the selection a compiler may round product and sum at once.
    offsets = jnp.where(labels > 0, labels.astype(boxes.dtype) * step, 0)
    return boxes + offsets[:, None]


def _suppresses(a: jax.Array, b: jax.Array, threshold: float) -> jax.Array:
    """Whether boxes a (..., 4) and b (..., 4) overlap by more than the threshold."""
    shared, union = _shared_and_union(a, b)
    return shared / jnp.where(union > 0, union, 1) > threshold


def _by_matrix(boxes: jax.Array, valid: jax.Array, threshold: float, max_out: int) -> tuple[jax.Array, jax.Array]:
    """Places (max_out,) in boxes (n, 4), best first, that stay, and which of them count.

    A box stays if no better one that stays suppresses it. The sets of which that is true of all boxes have one member:
    start with all, apply the rule to all at once until nothing changes. Chains of boxes that suppress each other are
    short, and so are the rounds: 5 or 6.
    """
    place = jnp.arange(len(boxes))
    over = _suppresses(boxes[:, None], boxes[None], threshold) & (place[:, None] < place)

    def apply_rule(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        stays, _ = state
        new = valid & ~jnp.any(over & stays[:, None], axis=0)
        return new, jnp.any(new != stays)

    stays, _ = jax.lax.while_loop(lambda state: state[1], apply_rule, (valid, jnp.bool(True)))
    count = jnp.sum(stays)
    places = jnp.nonzero(stays, size=max_out, fill_value=0)[0]
    return places, jnp.arange(max_out) < count


def _by_rounds(boxes: jax.Array, valid: jax.Array, threshold: float, max_out: int) -> tuple[jax.Array, jax.Array]:
    """As `_by_matrix`, max_out times: the best that is left stays, and all it suppresses goes."""

    def take(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        number, left, places = state
        best = jnp.argmax(left)
        left = left & ~_suppresses(boxes[best], boxes, threshold) & (jnp.arange(len(boxes)) != best)
        return number + 1, left, places.at[number].set(best.astype(jnp.int32))

    start = jnp.int32(0), valid, jnp.zeros(max_out, jnp.int32)
    count, _, places = jax.lax.while_loop(lambda state: (state[0] < max_out) & jnp.any(state[1]), take, start)
    return places, jnp.arange(max_out) < count
