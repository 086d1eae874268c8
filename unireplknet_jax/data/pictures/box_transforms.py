"""Pictures with boxes on the host: the training transform, and the size that a network sees in evaluation.

Source: mmdetection 2.28.1 (RandomFlip, AutoAugment, Resize, RandomCrop, Pad) with the DETR policies of the official
configurations, mmcv 1.5.0 (imrescale) and what it calls of OpenCV. Pictures are (h, w, 3) uint8 RGB, boxes (k, 4)
float32, x1, y1, x2, y2 in pixels. A picture lies in the upper left of one of a few canvases, so that few programs are
compiled.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unireplknet_jax.data.pictures.box_sets import whole
from unireplknet_jax.data.pictures.instance_masks import Piece, as_bits, pieces
from unireplknet_jax.data.pictures.mask_transforms import DIVISOR, canvas_of, kept_ratio, nearest_places, resize_to

SHORT_SIDES = tuple(range(480, 801, 32))
CANVASES = ((800, 1344), (1344, 800), (800, 1088))
_log = logging.getLogger(__name__)
_NOTHING = Piece(0, 0, np.zeros((0, 0), bool))  # what is left of a mask where the crop has only a part of its box
Size = tuple[int, int]


class Step(NamedTuple):
    """A picture is resized to (height, width), and what lies in the window (top, left, height, width) of it is kept."""

    size: Size
    window: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How a picture of `original` (h, w) is changed: mirrored or not, and then the steps."""

    original: Size
    flip: bool
    steps: tuple[Step, ...]

    @property
    def size(self) -> Size:
        """(height, width) of the result."""
        return self.steps[-1].window[2:]

    def image(self, image: np.ndarray) -> np.ndarray:
        """The picture (h, w, 3) after it."""
        image = image[:, ::-1] if self.flip else image
        for step in self.steps:
            image = resize_to(image, step.size, step.window)
        return image

    def boxes(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the boxes (k, 4) after it, (k,) bool whether each is there still: none is lost but to a crop)."""
        (height, width), there = self.original, np.ones(len(boxes), bool)
        if self.flip:
            boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=-1)
        for step in self.steps:
            scale = (step.size[1] / width, step.size[0] / height) * 2
            boxes = np.clip(boxes * np.array(scale, np.float32), 0, np.array(step.size[::-1] * 2, np.float32))
            top, left, height, width = step.window
            if (height, width) != step.size:
                boxes = boxes - np.array([left, top, left, top], np.float32)
                boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
                there &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return boxes.astype(np.float32), there

    def piece(self, piece: Piece | None) -> Piece | None:
        """A part of a bitmap after it; None where nothing of it is left. Masks are resized to the nearest pixel."""
        if piece is None:
            return None
        top, left, bitmap = piece
        if self.flip:
            left, bitmap = self.original[1] - left - bitmap.shape[1], bitmap[:, ::-1]
        rows, columns = self._places
        first, last = np.searchsorted(rows, [top, top + bitmap.shape[0]]).tolist()
        start, stop = np.searchsorted(columns, [left, left + bitmap.shape[1]]).tolist()
        found = bitmap[rows[first:last] - top][:, columns[start:stop] - left]
        return Piece(first, start, found) if found.any() else None

    @functools.cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows and the columns of the (mirrored) picture that those of the result are taken from, for masks."""
        rows, columns = (np.arange(length) for length in self.original)
        for step in self.steps:
            top, left, height, width = step.window
            rows = rows[nearest_places(len(rows), step.size[0])[top : top + height]]
            columns = columns[nearest_places(len(columns), step.size[1])[left : left + width]]
        return rows, columns


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """A picture with its objects as a network is trained on them, before normalization; picklable.

    The order is: mirror; one of two policies with the same probability; a canvas. The first policy brings the short
    side to one of `short_sides`, the long one to `longest` at most. The second one brings the short side to one of
    `crop_sides`, crops, and then does as the first.

    crop: each side of the crop is drawn from what lies between these two, or the side itself where that is shorter;
        None: only the first policy.
    canvases: (rows, columns), multiples of 32; the smallest that holds a picture is taken.
    objects: of which there is room; of more, so many are drawn at random, which the log says once.
    masks: whether objects have masks; mask_bytes: for how many bytes of them there is room (`instance_masks.as_bits`).
    """

    short_sides: tuple[int, ...] = SHORT_SIDES
    longest: int = 1333
    crop_sides: tuple[int, ...] = (400, 500, 600)
    crop: tuple[int, int] | None = (384, 600)
    flip: bool = True
    canvases: tuple[Size, ...] = CANVASES
    objects: int = 100
    masks: bool = True
    mask_bytes: int = 2**19
    _logged: dict[str, object] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self):
        sides = (*self.short_sides, *(self.crop_sides if self.crop else ()))
        if not self.short_sides or min(sides) < 1 or self.longest < max(sides):
            raise ValueError(
                f"short_sides={self.short_sides}, crop_sides={self.crop_sides} and longest={self.longest}; expected "
                "pixels, the longest side no shorter than the others"
            )
        if self.crop and not (len(self.crop) == 2 and 1 <= self.crop[0] <= self.crop[1]):
            raise ValueError(f"crop is {self.crop}; expected the least and the most pixels of a side, or None")
        if self.objects < 1:
            raise ValueError(f"objects is {self.objects}; expected 1 or more")
        largest = max(self.short_sides), self.longest
        for size in (largest, largest[::-1]):
            if canvas_of(size, self.canvases) not in self.canvases:
                raise ValueError(
                    f"none of the canvases {self.canvases} holds a picture of {size[0]} rows and {size[1]} columns, "
                    "which training makes; give one that does"
                )
        if any(side % DIVISOR for canvas in self.canvases for side in canvas):
            raise ValueError(f"canvases={self.canvases} must be (rows, columns), multiples of {DIVISOR}")

    def geometry(self, size: Size, rng: np.random.Generator) -> Geometry:
        """What is done to a picture of (h, w): the first draws from the rng of an example.

        From the sizes of the pictures and their generators alone the canvas of each is known before a file is read.
        """
        flip = bool(self.flip and rng.random() < 0.5)
        steps, height, width = [], *size
        if self.crop and rng.random() < 0.5:
            resized = kept_ratio(height, width, (self.longest, int(rng.choice(self.crop_sides))))
            height, width = (
                int(rng.integers(min(side, self.crop[0]), min(side, self.crop[1]), endpoint=True)) for side in resized
            )
            top, left = (
                int(rng.integers(0, side - kept, endpoint=True))
                for side, kept in zip(resized, (height, width), strict=True)
            )
            steps.append(Step(resized, (top, left, height, width)))
        resized = kept_ratio(height, width, (self.longest, int(rng.choice(self.short_sides))))
        return Geometry(size, flip, (*steps, Step(resized, (0, 0, *resized))))

    def canvas(self, size: Size, rng: np.random.Generator) -> Size:
        """The canvas of a picture of (h, w), given the rng of its example, of which this uses the first draws."""
        return canvas_of(self.geometry(size, rng).size, self.canvases)

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """An example of training, a function of the source's example and rng.

        Returns, of a canvas (H, W) and room for k objects, "image" (H, W, 3) uint8, "size" (2,) int32, the rows and
        columns that are no padding, "boxes" (k, 4) float32, "labels" (k,) int32, "valid" (k,) bool, with masks what
        `as_bits` returns, and the "id". Objects that are not `trained` are left out.
        Raises ValueError for an example with a broken file or mask.
        """
        example = whole(example)
        image = example["image"]
        geometry = self.geometry(image.shape[:2], rng)
        canvas = canvas_of(geometry.size, self.canvases)
        boxes, there = geometry.boxes(example["boxes"])
        chosen = np.flatnonzero(there & example["trained"])
        if len(chosen) > self.objects:
            self._log_once(example["id"], len(chosen))
            chosen = np.sort(rng.choice(chosen, self.objects, replace=False))
        room = np.zeros(self.objects, bool)
        room[: len(chosen)] = True
        found = {
            "image": on_canvas(geometry.image(image), canvas),
            "size": np.array(geometry.size, np.int32),
            "boxes": _filled(boxes[chosen], self.objects),
            "labels": _filled(example["labels"][chosen], self.objects),
            "valid": room,
            "id": example["id"],
        }
        if not self.masks:
            return found
        masks = [example["masks"][number] for number in chosen] if example["masks"] else []
        turned = [
            None if mask is None else geometry.piece(piece) or _NOTHING
            for mask, piece in zip(masks, pieces({**example, "masks": masks}), strict=True)
        ]
        return found | as_bits(turned, self.objects, self.mask_bytes)

    def _log_once(self, name: Any, found: int) -> None:
        token = object()
        if self._logged.setdefault("objects", token) is token:  # atomic, so no two threads log it
            _log.warning(
                "picture %s has %d objects, but there is room for %d: of this one and others so many are drawn at "
                "random (the option objects makes room)",
                *(name, found, self.objects),
            )


def prepared(
    image: np.ndarray, scale: Size = (1333, 800), canvases: Sequence[Size] = CANVASES
) -> dict[str, np.ndarray]:
    """What the network sees of a picture (h, w, 3) uint8 in evaluation.

    scale: the long and the short side within which the picture is brought, keeping its form.
    Returns "image" (H, W, 3) uint8 on the smallest canvas that holds it, or one of its own, "size" (2,) int32, and
    "scale_factor" (4,) float32 by which boxes of the picture are multiplied: columns, rows, columns, rows.
    """
    size, canvas = canvas_for(image.shape[:2], scale, canvases)
    factors = (size[1] / image.shape[1], size[0] / image.shape[0]) * 2
    return {
        "image": on_canvas(resize_to(image, size), canvas),
        "size": np.array(size, np.int32),
        "scale_factor": np.array(factors, np.float32),
    }


def canvas_for(size: Size, scale: Size, canvases: Sequence[Size]) -> tuple[Size, Size]:
    """((height, width) of a picture of (h, w) as the network sees it in evaluation, its canvas)."""
    resized = kept_ratio(*size, scale)
    rows, columns = (-(-side // DIVISOR) * DIVISOR for side in resized)
    return resized, canvas_of((rows, columns), canvases)


def on_canvas(image: np.ndarray, canvas: Size) -> np.ndarray:
    """A picture (h, w, 3) in the upper left of zeros (H, W, 3)."""
    found = np.zeros((*canvas, image.shape[2]), image.dtype)
    found[: image.shape[0], : image.shape[1]] = image
    return found


def _filled(rows: np.ndarray, length: int) -> np.ndarray:
    """Rows (k, ...) with zeros behind them up to a length."""
    found = np.zeros((length, *rows.shape[1:]), rows.dtype)
    found[: len(rows)] = rows
    return found
