"""How a picture of any size is shown to a network of maps: at several scales, whole or in windows, mirrored or not.

Each pass has a canvas of one of a few sizes, so that few programs are compiled; the picture lies in its upper left.
Original: the test pipelines of mmsegmentation 0.27, `slide_inference` and `aug_test`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from unireplknet_jax.data.pictures.mask_transforms import DIVISOR
from unireplknet_jax.tasks.mask_assembly import View, Window, slide_windows

Size = tuple[int, int]


class Way(NamedTuple):
    """One scale at which a picture is seen.

    size: of the picture as the network sees it; windows: of it, all or several; canvas: the size of each of their
    arrays, and `places`, how many arrays there are, of which windows fill the first.
    """

    size: Size
    windows: tuple[Window, ...]
    canvas: Size
    places: int


def way_of(canvas: Size, size: Size, ratio: float, crop: int | None, stride: int) -> Way:
    """How a picture is seen at one scale. canvas: of the scale 1; size: at this scale; crop: None for all of it."""
    canvas = (_enlarged(canvas[0], ratio), _enlarged(canvas[1], ratio))
    if crop is None:
        return Way(size, ((0, 0, *size),), canvas, 1)
    windows, most = (slide_windows(area, (crop, crop), (stride, stride)) for area in (size, canvas))
    return Way(size, tuple(windows), (crop, crop), len(most))


def _enlarged(length: int, ratio: float) -> int:
    return math.ceil(math.ceil(length * ratio) / DIVISOR) * DIVISOR


def arrays_of(picture: np.ndarray, way: Way, mirror: bool) -> tuple[np.ndarray, np.ndarray]:
    """(windows (k, h, w, 3) uint8 of a picture of the way's size, their sizes (k, 2) int32), the mirrored ones behind.

    Windows that are not there have the size (1, 1), as nothing can be computed of none.
    """
    sides = [picture, np.ascontiguousarray(picture[:, ::-1])] if mirror else [picture]
    images = np.zeros((len(sides) * way.places, *way.canvas, picture.shape[-1]), np.uint8)
    sizes = np.ones((len(images), 2), np.int32)
    for side, turned in enumerate(sides):
        for number, (top, left, height, width) in enumerate(way.windows):
            images[side * way.places + number, :height, :width] = turned[top : top + height, left : left + width]
            sizes[side * way.places + number] = height, width
    return images, sizes


def views_of(logits: np.ndarray, way: Way) -> list[View]:
    """What the network said of the windows of `arrays_of`: the plain view and the mirrored one, if there is one."""
    sides = len(logits) // way.places
    return [
        View(logits[side * way.places :][: len(way.windows)], list(way.windows), way.size, mirrored=side == 1)
        for side in range(sides)
    ]
