"""What files of annotations say of pictures, whatever their format: objects with boxes, and a compact store of many."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from unireplknet_jax.data.base import listed
from unireplknet_jax.data.files import Names, natural_key
from unireplknet_jax.data.pictures.instance_masks import LEAST_NUMBERS, area_of

MOST_PIXELS = 10**6  # of a side of a picture, and that a box may lie away from its origin
LEAST_SIDE = 32  # pixels of a picture in training
_LEAST_BOX = 1 - 1e-9  # pixels of a side of a box in training, less what a difference of its corners loses


@dataclasses.dataclass
class Thing:
    """An object: its box (x1, y1, x2, y2), the number of its class, and its mask as in `instance_masks`.

    crowd: the box is around many, so that what is found in it counts neither as found nor as wrong, and nothing is
    learned from it. ignored: it counts in a score, but nothing is learned from it. area: of the mask or the box, by
    which objects are small, medium or large; None: as of the mask or the box.
    """

    box: tuple[float, float, float, float]
    label: int
    mask: Any = None
    crowd: bool = False
    ignored: bool = False
    area: float | None = None


@dataclasses.dataclass
class Annotated:
    """A picture with its objects. name: its path below the folder of the pictures.

    size: (height, width) as the annotations say; (0, 0) where they do not. number: how they call the picture; None: by
    its name.
    """

    name: str
    things: list[Thing]
    size: tuple[int, int] = (0, 0)
    number: int | str | None = None


@dataclasses.dataclass
class Annotations:
    """What a reader found. folder: of the pictures; labels: the classes in their order; category_ids: what stands for
    each in the files; origin: what errors call the annotations; relative: coordinates are shares of the picture.
    odd: {what was passed over or mended: where}, for the log and `check-data`.
    """

    folder: str
    pictures: list[Annotated]
    labels: tuple[str, ...]
    category_ids: tuple[int, ...]
    origin: str
    relative: bool = False
    odd: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def note(self, what: str, where: str) -> None:
        """Remember something odd."""
        self.odd.setdefault(what, []).append(where)


class Store:
    """The objects of many pictures in a few arrays: those of COCO are 860,000. Picklable.

    A mask is kept as the text of its JSON.
    """

    def __init__(self, pictures: Sequence[Annotated]):
        things = [thing for picture in pictures for thing in picture.things]
        self.ends = np.cumsum([len(picture.things) for picture in pictures], dtype=np.int64)
        self.boxes = np.array([thing.box for thing in things], np.float64).reshape(-1, 4)
        self.labels = np.array([thing.label for thing in things], np.int32)
        self.crowd = np.array([thing.crowd for thing in things], bool)
        self.ignored = np.array([thing.ignored for thing in things], bool)
        self.areas = np.array([_area(thing) for thing in things], np.float64)
        self.sizes = np.array([picture.size for picture in pictures], np.int32).reshape(-1, 2)
        self.has_masks = any(thing.mask is not None for thing in things)
        texts = [json.dumps(thing.mask) if thing.mask is not None else "" for thing in things if self.has_masks]
        self._masks = Names(texts)

    def span(self, index: int) -> slice:
        """Where the objects of a picture lie in the arrays."""
        return slice(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))

    def masks(self, index: int) -> list[Any] | None:
        """The masks of a picture; None where no object of any picture has one."""
        if not self.has_masks:
            return None
        span = self.span(index)
        texts = (self._masks[number] for number in range(span.start, span.stop))
        return [json.loads(text) if text else None for text in texts]

    def counts(self) -> np.ndarray:
        """(pictures,) how many objects each has."""
        return np.diff(self.ends, prepend=0)

    def checksum(self) -> int:
        """Of all that is known of the objects."""
        found = self._masks.checksum(0, len(self._masks))
        for array in (self.ends, self.boxes, self.labels, self.crowd, self.ignored, self.areas, self.sizes):
            found = zlib.crc32(np.ascontiguousarray(array).tobytes(), found)
        return found


def entries(
    boxes: np.ndarray,
    labels: np.ndarray,
    areas: np.ndarray,
    crowd: np.ndarray,
    ignored: np.ndarray,
    masks: list[Any] | None,
    size: tuple[int, int],
) -> dict[str, Any]:
    """The entries of an example that are of its objects, as `box_sets.open_source` says; size: (h, w) of its picture.

    boxes: (k, 4) and areas: (k,) float64, labels: (k,) int32, crowd and ignored: (k,) bool.
    """
    return {
        "boxes": boxes.astype(np.float32),
        "unrounded": boxes,
        "labels": labels,
        "crowd": crowd,
        "trained": trained(boxes, areas, crowd, ignored, size),
        "areas": areas,
        "masks": masks,
    }


def trained(
    boxes: np.ndarray, areas: np.ndarray, crowd: np.ndarray, ignored: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """(k,) bool: the objects of a picture of (h, w) that a network learns from.

    Left out are crowds, ignored ones, those with no area, outside of the picture, or less than a pixel wide or high.
    Source: mmdetection 2.28.1, CocoDataset._parse_ann_info.
    """
    low, high = np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, 2:], size[::-1])
    inside = (high - low > 0).all(axis=1)
    large = (boxes[:, 2:] - boxes[:, :2] >= _LEAST_BOX).all(axis=1)
    return ~crowd & ~ignored & (areas > 0) & inside & large


def box_around(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """The box around polygons."""
    x = [float(value) for each in polygons for value in each[::2]]
    y = [float(value) for each in polygons for value in each[1::2]]
    return min(x), min(y), max(x), max(y)


def in_order(pictures: Iterable[Annotated]) -> list[Annotated]:
    """Pictures in the order of their names, 2 before 10."""
    return sorted(pictures, key=lambda picture: natural_key(picture.name))


def check_once(pictures: Sequence[Annotated], origin: str) -> None:
    """Raise ValueError where a picture or the number of one stands twice."""
    for kind in ("name", "number"):
        found = [value for value in (getattr(picture, kind) for picture in pictures) if value is not None]
        if len({*found}) < len(found):
            seen: set[Any] = set()
            twice = [str(value) for value in found if value in seen or seen.add(value)]
            what = "the picture" if kind == "name" else "the picture id"
            raise ValueError(f"{origin} has {what} {listed([*dict.fromkeys(twice)])} more than once; give each its own")


def polygons_of(mask: list[Any]) -> list[list[float]]:
    """The polygons of a mask, which may be one without a list around it, or have a list for each corner."""
    if mask and not isinstance(mask[0], list):
        return [mask]
    found = list[list[float]]()
    for each in mask:
        if not (isinstance(each, list) and each and all(isinstance(part, list) for part in each)):
            found.append(each)
        elif all(len(part) == 2 for part in each):
            found.append([value for corner in each for value in corner])
        else:
            found += polygons_of(each)
    return found


def usable_mask(mask: Any) -> Any:
    """A mask as a file has it without polygons that have fewer than three corners or half of one; None if none is left.

    Run lengths stay as they are, but for a list around them.
    """
    if isinstance(mask, list) and len(mask) == 1 and isinstance(mask[0], Mapping):
        mask = mask[0]
    if not isinstance(mask, list):
        return mask or None
    return [each for each in polygons_of(mask) if _has_corners(each)] or None


def _has_corners(polygon: Any) -> bool:
    return isinstance(polygon, list) and len(polygon) >= LEAST_NUMBERS and len(polygon) % 2 == 0


def _area(thing: Thing) -> float:
    if thing.area is not None:
        return thing.area
    if thing.mask is not None:
        try:
            return area_of(thing.mask)
        except ValueError:  # which is said where the mask is decoded
            pass
    return (thing.box[2] - thing.box[0]) * (thing.box[3] - thing.box[1])
