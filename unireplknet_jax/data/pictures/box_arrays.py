"""Pictures with boxes that are no files: those in memory, as a source, and parts of large ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unireplknet_jax.data.pictures.box_annotations import Thing, entries
from unireplknet_jax.data.pictures.instance_masks import Piece, cropped

_LEAST_SHARE = 0.25  # of an object, which a part of a picture has


@dataclass(frozen=True, eq=False)
class BoxArrays:
    """Pictures (h, w, 3) uint8 in memory with their objects, as `box_sets.open_source` says; picklable.

    ids: of the pictures; labels: the classes; origin: what errors call the set.
    """

    images: Sequence[np.ndarray]
    things: Sequence[Sequence[Thing]]
    ids: tuple[int, ...]
    labels: tuple[str, ...]
    origin: str

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The classes, numbered from 1."""
        return tuple(range(1, len(self.labels) + 1))

    @property
    def has_masks(self) -> bool:
        """Whether any object has a mask."""
        return any(thing.mask is not None for own in self.things for thing in own)

    @property
    def most_objects(self) -> int:
        """The most objects that a picture has."""
        return max(map(len, self.things))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        image = np.array(self.images[index])
        found = objects_of(self.things[index], image.shape[:2], self.has_masks)
        return {"image": image, **found, "id": self.ids[index]}

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every picture."""
        return [image.shape[:2] for image in self.images]

    def sides(self) -> np.ndarray:
        """(n,) the shorter side of every picture."""
        return np.array([min(size) for size in self.sizes()])

    def filled(self) -> np.ndarray:
        """(n,) bool: whether a picture has an object."""
        return np.array([len(own) > 0 for own in self.things])

    def contents(self) -> dict[str, list[int]]:
        """As `data.base.Source` says: the set is known by its name."""
        return {}


def objects_of(things: Sequence[Thing], size: tuple[int, int], masks: bool) -> dict[str, Any]:
    """The entries of an example beside its picture of (h, w) and its id. things: with their areas.

    masks: whether the set has masks.
    """
    return entries(
        np.array([thing.box for thing in things], np.float64).reshape(-1, 4),
        np.array([thing.label for thing in things], np.int32),
        np.array([thing.area for thing in things], np.float64),
        *(np.array([getattr(thing, name) for thing in things], bool) for name in ("crowd", "ignored")),
        [thing.mask for thing in things] if masks else None,
        size,
    )


def with_mask(piece: Piece, label: int) -> Thing:
    """An object of this class with this mask, and the box around it."""
    height, width = piece.bitmap.shape
    box = (float(piece.left), float(piece.top), float(piece.left + width), float(piece.top + height))
    return Thing(box, label, piece, area=float(piece.bitmap.sum()))


def with_box(box: tuple[float, float, float, float], label: int) -> Thing:
    """An object of this class with this box (x1, y1, x2, y2) alone."""
    return Thing(box, label, area=(box[2] - box[0]) * (box[3] - box[1]))


def parts(
    image: np.ndarray, things: Sequence[Thing], side: int, stride: int
) -> Iterator[tuple[np.ndarray, list[Thing]]]:
    """Yield the square parts of a picture (h, w, 3), row by row, each with the objects in it.

    side: of a part, in pixels; stride: at most so many lie between the beginnings of two neighbours. The last ones end
    with the picture. An object is in those parts that have a quarter of it at least, of its mask or else of its box,
    and is cut there.
    """
    for top in _starts(image.shape[0], side, stride):
        for left in _starts(image.shape[1], side, stride):
            found = (_part_of(thing, top, left, side) for thing in things)
            yield image[top : top + side, left : left + side], [thing for thing in found if thing is not None]


def _starts(length: int, side: int, stride: int) -> list[int]:
    last = max(length - side, 0)
    return np.linspace(0, last, 1 + -(-last // stride)).astype(int).tolist()


def _part_of(thing: Thing, top: int, left: int, side: int) -> Thing | None:
    """What is left of an object in a part; None where that is too little."""
    if thing.mask is None:
        x1, y1, x2, y2 = np.clip(np.array(thing.box) - (left, top, left, top), 0, side).tolist()
        found = replace(thing, box=(x1, y1, x2, y2), area=max(x2 - x1, 0.0) * max(y2 - y1, 0.0))
    else:
        first = max(top - thing.mask.top, 0), max(left - thing.mask.left, 0)
        last = max(top + side - thing.mask.top, 0), max(left + side - thing.mask.left, 0)
        piece = cropped(thing.mask.bitmap[first[0] : last[0], first[1] : last[1]])
        if piece is None:
            return None
        row, column = thing.mask.top + first[0] + piece.top, thing.mask.left + first[1] + piece.left
        found = with_mask(Piece(row - top, column - left, piece.bitmap), thing.label)
    return found if found.area >= _LEAST_SHARE * thing.area else None
