"""What a detector says of the views of a picture, as objects of the picture: boxes, scores, labels and masks.

On the host. Original: `BBoxHead.get_bboxes` and `FCNMaskHead.get_seg_masks` of mmdetection 2.28. Several views of a
picture (scales, mirrored, windows) are merged by suppression within each class, as in the last step of a detector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unireplknet_jax.data.pictures.instance_masks import Piece
from unireplknet_jax.tasks.canvases import Way

_OVERLAP = 0.5  # IoU of two detections of one class, above which the one with the lower score goes
_PART = 0.7  # the share of the smaller one that two windows found, above which it is a part of the other
Size = tuple[int, int]


class Found(NamedTuple):
    """k detections, best first: boxes (k, 4) float32, scores (k,), labels (k,) int, masks (k, 28, 28) or None."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None

    def rows(self, kept: np.ndarray | slice) -> Found:
        masks = None if self.masks is None else self.masks[kept]
        return Found(self.boxes[kept], self.scores[kept], self.labels[kept], masks)


def in_picture(found: Found, scale: np.ndarray, corner: tuple[int, int] = (0, 0), mirrored: int | None = None) -> Found:
    """Detections in a view of a picture as detections in the picture.

    scale: (4,) float32, by which the boxes of the picture are multiplied before it is seen; mirrored: the columns of
    the picture so enlarged, where it is seen mirrored; corner: (top, left) of the window in what is seen.
    """
    top, left = corner
    boxes, masks = found.boxes + np.array([left, top, left, top], np.float32), found.masks
    if mirrored is not None:
        boxes = np.stack([mirrored - boxes[:, 2], boxes[:, 1], mirrored - boxes[:, 0], boxes[:, 3]], axis=-1)
        masks = None if masks is None else masks[:, :, ::-1]
    return found._replace(boxes=(boxes / scale).astype(np.float32), masks=masks)


def views_of(pred: Mapping[str, np.ndarray], scale: int, way: Way, original: Size) -> list[Found]:
    """What a network said of `canvases.Windows` at one scale, in a picture of `original` (h, w)."""
    factors, found = np.array((way.size[1] / original[1], way.size[0] / original[0]) * 2, np.float32), []
    for place, kept in enumerate(pred[f"valid_{scale}"]):
        side, number = divmod(place, way.places)
        if number < len(way.windows):
            boxes, scores, labels = (np.asarray(pred[f"{name}_{scale}"][place])[kept] for name in Found._fields[:3])
            masks = pred[f"masks_{scale}"][place][kept] if f"masks_{scale}" in pred else None
            each = Found(boxes.astype(np.float32), scores.astype(np.float32), labels, masks)
            found.append(in_picture(each, factors, way.windows[number][:2], way.size[1] if side else None))
    return found


def merged(views: Sequence[Found], most: int, windows: bool = False) -> Found:
    """The detections of several views of a picture as one list of at most `most`.

    windows: whether views are parts of the picture, whose borders cut objects: what lies mostly inside a detection of
    another window goes, too.
    """
    if len(views) == 1:
        return views[0].rows(slice(most))
    view = np.repeat(np.arange(len(views)), [len(each.scores) for each in views])
    boxes, scores, labels = (np.concatenate([each[i] for each in views]) for i in range(3))
    masks = [each.masks for each in views if each.masks is not None]
    order = np.argsort(-scores, kind="stable")
    found = Found(boxes, scores, labels, np.concatenate(masks) if masks else None).rows(order)
    view = view[order]
    areas = _area(found.boxes)
    alive, kept = np.ones(len(view), bool), list[int]()
    for best in range(len(view)):  # at most a few hundred of each view
        if not alive[best] or len(kept) == most:
            continue
        kept.append(best)
        low = np.maximum(found.boxes[best, :2], found.boxes[:, :2])
        shared = _area(np.concatenate([low, np.maximum(low, np.minimum(found.boxes[best, 2:], found.boxes[:, 2:]))], 1))
        gone = shared > _OVERLAP * (areas[best] + areas - shared)
        if windows:
            gone |= (view != view[best]) & (shared > _PART * np.minimum(areas[best], areas))
        alive &= ~(gone & (found.labels == found.labels[best]))
    return found.rows(np.array(kept, int))


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def pasted(probabilities: np.ndarray, box: np.ndarray, size: Size) -> Piece:
    """A mask of an object as a part of the bitmap of its picture: where the probability is 0.5 or more.

    probabilities: (m, m) float32 inside a box (4,) of a picture of `size` (h, w). They are resized to the box's pixels
    bilinearly, half-pixel centres, with zeros around them.
    """
    left, top, right, bottom = box.tolist()
    rows, columns = (
        np.arange(max(math.floor(low) - 1, 0), max(min(math.ceil(high) + 1, side), 0))
        for low, high, side in ((top, bottom, size[0]), (left, right, size[1]))
    )
    if not (rows.size and columns.size and bottom > top and right > left):
        return Piece(0, 0, np.zeros((0, 0), bool))
    from_rows = _shares(rows, box[1], box[3], len(probabilities))
    from_columns = _shares(columns, box[0], box[2], len(probabilities))
    return Piece(int(rows[0]), int(columns[0]), from_rows @ probabilities @ from_columns.T >= 0.5)


def _shares(places: np.ndarray, low: np.float32, high: np.float32, count: int) -> np.ndarray:
    """(n, count) float32: how much of each of `count` cells from low to high each of the pixels (n,) takes."""
    half, one = np.float32(0.5), np.float32(1)
    normal = (places.astype(np.float32) + half - low) / (
        high - low
    ) * 2 - one  # as torch.nn.functional.grid_sample takes it
    source = ((normal + one) * count - one) / 2
    below = np.floor(source)
    share = source - below
    cells = np.arange(count)
    return np.where(cells == below[:, None], one - share[:, None], 0) + np.where(
        cells == below[:, None] + 1, share[:, None], np.float32(0)
    )
