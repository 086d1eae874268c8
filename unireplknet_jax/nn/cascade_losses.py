"""The losses of Cascade Mask R-CNN, and which anchors and regions they are taken over.

Original: the heads, assigners and samplers of mmdetection 2.28. Its denominators are those of the two pictures on one
GPU, ours of the whole batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.nn.proposals import UNIT_STDS, Scored
from unireplknet_jax.nn.region_heads import refined
from unireplknet_jax.ops.assignment import Sample, assign, sample, with_truth
from unireplknet_jax.ops.batch import of_examples
from unireplknet_jax.ops.box_losses import binary_cross_entropy, cross_entropy, giou_loss, masked_sum, smooth_l1
from unireplknet_jax.ops.boxes import decode, encode
from unireplknet_jax.ops.mask_targets import mask_targets

OBJECT, BACKGROUND = 0.7, 0.3  # overlaps with an object from which on, and below which, an anchor counts
OVERLAPS = (0.5, 0.6, 0.7)  # overlaps with an object from which on a region counts as it, of each stage
STAGE_WEIGHTS = (1.0, 0.5, 0.25)
BOX_WEIGHT = 10.0
BETA = 1 / 9  # where the loss of the anchors' deltas goes over from a square to a line


class Masks(NamedTuple):
    """Masks of the objects of n pictures.

    bits (n, b) uint8 and crops (n, g, 5) int32: their bitmaps as `mask_targets` takes them; has_mask: (n, g), which of
    the objects have one.
    """

    bits: jax.Array
    crops: jax.Array
    has_mask: jax.Array


class Truth(NamedTuple):
    """What is in n pictures, g rows each.

    boxes: (n, g, 4) in pixels of the network's input; labels: (n, g) int32; valid: (n, g), False for rows that hold
    nothing; masks: None for data without.
    """

    boxes: jax.Array
    labels: jax.Array
    valid: jax.Array
    masks: Masks | None = None


def sample_anchors(
    key: jax.Array, anchors: jax.Array, truth: Truth, sizes: jax.Array, counts: tuple[int, int]
) -> Sample:
    """Some of the anchors (a, 4) that lie inside the pictures; sizes: (n, 2), their rows and columns.

    counts: how many of a picture in all, and how many on objects at most. Fields of the result: (n, r).
    """

    def of_picture(key: jax.Array, boxes: jax.Array, valid: jax.Array, size: jax.Array, anchors: jax.Array) -> Sample:
        inside = jnp.all(anchors[:, :2] >= 0, axis=-1) & jnp.all(anchors[:, 2:] < size[::-1], axis=-1)
        assigned = assign(anchors, boxes, BACKGROUND, OBJECT, BACKGROUND, valid, inside)
        return sample(assigned.truth, key, *counts)

    keys = jax.random.split(key, len(sizes))
    return of_examples(of_picture, (keys, truth.boxes, truth.valid, sizes), (anchors,))


def sample_regions(
    key: jax.Array, boxes: jax.Array, valid: jax.Array, truth: Truth, overlap: float, counts: tuple[int, int]
) -> tuple[Sample, jax.Array]:
    """(some of the rows of [the boxes of objects, boxes], these boxes (n, r, 4)).

    boxes: (n, b, 4); valid: (n, b); overlap: with an object, from which on a box counts as it, as an object's own box
    always does; counts: as of `sample_anchors`.
    """

    def of_picture(
        key: jax.Array, boxes: jax.Array, valid: jax.Array, objects: jax.Array, objects_valid: jax.Array
    ) -> tuple[Sample, jax.Array]:
        assigned = assign(boxes, objects, overlap, overlap, truth_valid=objects_valid, valid=valid)
        found = sample(with_truth(assigned.truth, objects_valid), key, *counts)
        return found, jnp.concatenate([objects, boxes])[found.row]

    keys = jax.random.split(key, len(boxes))
    return of_examples(of_picture, (keys, boxes, valid, truth.boxes, truth.valid))


def boxes_between(
    chosen: Sample,
    rois: jax.Array,
    logits: jax.Array,
    deltas: jax.Array,
    truth: Truth,
    stds: np.ndarray,
    sizes: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """(what a stage makes of its regions (n, r, 4), which of them go on to the next stage (n, r)).

    A region on an object is moved as its class says, another one as the best class but the background says. The boxes
    of objects stay behind: they are candidates of their own in every stage.
    """
    guesses = jnp.argmax(logits[..., :-1], axis=-1)
    labels = jnp.where(chosen.positive, at_rows(truth.labels, chosen.truth), guesses)
    return refined(rois, deltas, labels, stds, sizes), chosen.valid & (chosen.row >= truth.boxes.shape[1])


def proposal_losses(
    scored: Sequence[Scored], anchors: jax.Array, chosen: Sample, truth: Truth
) -> tuple[jax.Array, jax.Array]:
    """(of the scores of the chosen anchors, of the deltas of those on objects), each a share of all chosen ones."""
    logits, deltas = (jnp.concatenate([getattr(one, name) for one in scored], axis=1) for name in ("logits", "deltas"))
    logits, deltas = (at_rows(values, chosen.row) for values in (logits, deltas))
    wanted = encode(anchors[chosen.row], at_rows(truth.boxes, chosen.truth), UNIT_STDS)
    kinds = chosen.positive, chosen.valid & ~chosen.positive
    count = sum(jnp.sum(jnp.maximum(jnp.sum(kind, axis=1), 1)) for kind in kinds)
    scores = masked_sum(binary_cross_entropy(logits, chosen.positive), chosen.valid)
    return scores / count, masked_sum(smooth_l1(deltas, wanted, BETA), chosen.positive) / count


def class_loss(logits: jax.Array, labels: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(cross-entropy, percentage of regions whose label is best).

    logits: (n, r, classes + 1); labels: (n, r), the last of the background; valid: (n, r).
    """
    count = jnp.maximum(jnp.sum(valid), 1)
    hits = valid & (jnp.argmax(logits, axis=-1) == labels)
    return masked_sum(cross_entropy(logits, labels), valid) / count, 100 * jnp.sum(hits) / count


def box_loss(deltas: jax.Array, rois: jax.Array, chosen: Sample, truth: Truth, stds: np.ndarray) -> jax.Array:
    """1 - GIoU of the decoded boxes with those of their objects, summed, as a share of all chosen regions, times 10.

    deltas: (n, r, classes, 4), of which those of the object's class count; rois: (n, r, 4), which are not clipped.
    """
    labels = at_rows(truth.labels, chosen.truth)
    own = jnp.take_along_axis(deltas, labels[..., None, None], axis=2)[:, :, 0]
    losses = giou_loss(decode(rois, own, stds), at_rows(truth.boxes, chosen.truth))
    return BOX_WEIGHT * masked_sum(losses, chosen.positive) / jnp.maximum(jnp.sum(chosen.valid), 1)


def mask_loss(logits: jax.Array, rois: jax.Array, chosen: Sample, masks: Masks, sizes: jax.Array) -> jax.Array:
    """The mean cross-entropy over the cells of the regions on objects that have a mask.

    logits: (n, r, 28, 28); rois: (n, r, 4); sizes: (n, 2), of the pictures' frames.
    """
    bits, crops, has_mask = masks
    targets = of_examples(mask_targets, (bits, crops, rois, chosen.truth, sizes))
    losses = jnp.mean(binary_cross_entropy(logits, targets), axis=(2, 3))
    counted = chosen.positive & at_rows(has_mask, chosen.truth)
    return masked_sum(losses, counted) / jnp.maximum(jnp.sum(counted), 1)


def at_rows(values: jax.Array, rows: jax.Array) -> jax.Array:
    """values (n, g, ...), rows (n, r) -> (n, r, ...)."""
    return jnp.take_along_axis(values, rows.reshape(*rows.shape, *[1] * (values.ndim - 2)), axis=1)
