"""Masks of single objects: polygons and run lengths of files, bitmaps, and bits for the way to a device.

A mask is one of
- polygons [[x1, y1, x2, y2, ...], ...] in pixels, which are filled as pycocotools does it, and united;
- run lengths {"size": [height, width], "counts": ...}, COCO's, down the columns, first those that are not the object:
  counts is a list of whole numbers, or the text into which pycocotools packs them;
- (h, w) bool, or a `Piece` of it; or None, where an object has a box alone.
Source of the formats: cocodataset/cocoapi, PythonAPI/pycocotools/mask.py and common/maskApi.c.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

LEAST_NUMBERS = 6  # of a polygon
_FARTHEST = 1e5  # pixels that a corner may lie away from the origin
Size = tuple[int, int]


class Piece(NamedTuple):
    """A part of a bitmap beyond which it is empty, and where its first pixel lies."""

    top: int
    left: int
    bitmap: np.ndarray


def bitmaps(example: Mapping[str, Any]) -> np.ndarray:
    """The masks of an example of a source of boxes as (k, h, w) bool, upright as its picture; empty for a None.

    Raises ValueError as `bitmap` does.
    """
    size = example["image"].shape[:2]
    found = np.zeros((len(example["masks"]), *size), bool)
    for number, mask in enumerate(example["masks"]):
        if mask is not None:
            found[number] = bitmap(mask, size, example.get("orientation", 1))
    return found


def pieces(example: Mapping[str, Any]) -> Iterator[Piece | None]:
    """As `bitmaps`, one after the other, each cropped to its object; None for a mask that is None or empty.

    The whole bitmaps of 1,000 objects of a large picture would have gigabytes.
    """
    size = example["image"].shape[:2]
    for mask in example["masks"]:
        if isinstance(mask, Piece):
            yield mask
        else:
            yield None if mask is None else cropped(bitmap(mask, size, example.get("orientation", 1)))


def cropped(found: np.ndarray) -> Piece | None:
    """A bitmap (h, w) cropped to what is set in it; None where nothing is."""
    rows, columns = (np.flatnonzero(found.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    top, left = int(rows[0]), int(columns[0])
    return Piece(top, left, found[top : rows[-1] + 1, left : columns[-1] + 1])


def bitmap(mask: Any, size: Size, orientation: int = 1) -> np.ndarray:
    """A mask as (h, w) bool, of an upright picture of that size.

    orientation: EXIF's, where the mask is that of the picture as it is stored.
    Raises ValueError, one sentence without a name, for a mask that is none or of another size, and ImportError where
    it has polygons and pycocotools is missing.
    """
    stored = size[::-1] if orientation >= 5 else size
    if isinstance(mask, Piece):
        height, width = mask.bitmap.shape
        found = np.zeros(stored, bool)
        found[mask.top : mask.top + height, mask.left : mask.left + width] = mask.bitmap
    elif isinstance(mask, np.ndarray):
        found = mask.astype(bool)
    elif isinstance(mask, Mapping):
        found = _from_runs(mask, stored)
    else:
        found = _from_polygons(usable_polygons(mask), stored)
    _check_size(found.shape, stored)
    return upright_bitmap(found, orientation)


def upright_bitmap(found: np.ndarray, orientation: int) -> np.ndarray:
    """A bitmap (h, w) of a picture as it is stored, turned as its EXIF orientation, 1 to 8, says."""
    if orientation >= 5:
        found = found.T
    if orientation in (3, 4, 7, 8):
        found = found[::-1]
    return found[:, ::-1] if orientation in (2, 3, 6, 7) else found


def upright_points(points: np.ndarray, size: Size, orientation: int) -> np.ndarray:
    """Points (n, 2), x and y, of a picture as it is stored in points of the upright one, which has this size (h, w)."""
    if orientation >= 5:
        points = points[:, ::-1]
    x, y = points[:, 0], points[:, 1]
    if orientation in (3, 4, 7, 8):
        y = size[0] - y
    return np.stack([size[1] - x if orientation in (2, 3, 6, 7) else x, y], axis=-1)


def usable_polygons(polygons: Any) -> list[list[float]]:
    """The polygons of a mask that have three corners or more; ValueError where there is none, or one is not finite."""
    if not isinstance(polygons, Sequence) or isinstance(polygons, str):
        raise ValueError(f"a mask is {str(polygons)[:40]!r}; expected polygons [[x1, y1, x2, y2, ...]] or run lengths")
    flat = [polygons] if polygons and not isinstance(polygons[0], Sequence) else polygons
    long_enough = [each for each in flat if len(each) >= LEAST_NUMBERS and len(each) % 2 == 0]
    if not long_enough:
        raise ValueError("a mask has no polygon of three corners or more; expected 6 numbers, or another even count")
    try:
        found = [list(map(float, each)) for each in long_enough]
    except (TypeError, ValueError):
        raise ValueError(f"a mask is {str(polygons)[:40]!r}; expected numbers in its polygons") from None
    if not all(math.isfinite(value) and abs(value) <= _FARTHEST for each in found for value in each):
        raise ValueError("a polygon has a corner that is no point near the picture")
    return found


def area_of(mask: Any) -> float:
    """The area in pixels of polygons, the sum of theirs, or of run lengths; ValueError for a mask that is neither."""
    if isinstance(mask, Mapping):
        return float(_size_and_runs(mask)[1][1::2].sum())
    area = 0.0
    for each in usable_polygons(mask):
        x, y = np.asarray(each, np.float64).reshape(-1, 2).T
        area += 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))
    return area


def run_lengths(found: np.ndarray) -> dict[str, Any]:
    """A bitmap (h, w) as run lengths {"size", "counts": a list}; COCO's reader packs that into a text."""
    flat = found.astype(bool).ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=False, append=flat[-1:]))
    counts = np.diff(starts, prepend=0, append=flat.size)
    return {"size": [*found.shape], "counts": counts.tolist()}


def piece_runs(piece: Piece, size: Size) -> dict[str, Any]:
    """A part of a bitmap of `size` (h, w) as `run_lengths` gives the whole."""
    edges = np.diff(np.pad(piece.bitmap.astype(np.int8), ((1, 1), (0, 0))), axis=0)  # (rows + 1, columns)
    columns, rows = np.nonzero(edges.T)
    places = (piece.left + columns) * size[0] + piece.top + rows
    alone = np.ones(len(places), bool)  # a run that goes on at the top of the next column has no end there
    goes_on = np.flatnonzero(places[1:] == places[:-1])
    alone[goes_on], alone[goes_on + 1] = False, False
    counts = np.diff(places[alone], prepend=0, append=size[0] * size[1])
    return {"size": [*size], "counts": (counts[:-1] if counts[-1] == 0 else counts).tolist()}


def unpacked(text: str | bytes) -> np.ndarray:
    """(n,) int64: the run lengths in a text of pycocotools; ValueError for another text.

    A letter has 5 bits of a number, lowest first, and one that says that more follow. From the fourth on a number is
    the difference to the one before the last.
    """
    letters = np.frombuffer(text.encode("latin-1", "replace") if isinstance(text, str) else text, np.uint8)
    codes = letters.astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError(f"a mask has the run lengths {str(text)[:40]!r}, which is no text of pycocotools")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    if places.max() > 6:  # of 5 bits each: more than any picture needs
        raise ValueError(f"a mask has the run lengths {str(text)[:40]!r}, which is no text of pycocotools")
    numbers = np.add.reduceat((codes & 31) << 5 * places, starts)
    numbers -= np.where(codes[ends] & 16, 1 << 5 * (places[ends] + 1), 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers


def _size_and_runs(mask: Mapping[str, Any]) -> tuple[Size, np.ndarray]:
    """The size (h, w) of run lengths and these, (n,) int64; ValueError where there are none."""
    try:
        (height, width), counts = map(int, mask["size"]), mask["counts"]
        runs = None if isinstance(counts, str | bytes) else np.asarray(counts, np.int64).reshape(-1)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError('a mask has other run lengths than {"size": [height, width], "counts": ...}') from error
    return (height, width), unpacked(counts) if runs is None else runs


def _from_runs(mask: Mapping[str, Any], stored: Size) -> np.ndarray:
    size, runs = _size_and_runs(mask)
    _check_size(size, stored)  # before anything as large is made
    if (runs < 0).any():
        raise ValueError(f"a mask has run lengths below 0, such as {int(runs.min())}")
    if runs.sum() != math.prod(size):
        raise ValueError(f"a mask has run lengths over {int(runs.sum()):,} pixels, but the size {list(size)}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")


def _from_polygons(polygons: list[list[float]], size: Size) -> np.ndarray:
    library = coco_masks()
    return _from_runs(library.merge(library.frPyObjects(polygons, *size)), size)


def coco_masks() -> Any:
    """The module pycocotools.mask; ImportError, one sentence, where it is missing."""
    try:
        from pycocotools import mask
    except ImportError:
        raise ImportError(
            "masks of polygons need pycocotools, which is missing: pip install 'unireplknet_jax[boxes]'"
        ) from None
    return mask


def _check_size(found: Sequence[int], stored: Size) -> None:
    if tuple(found) != tuple(stored):
        sizes = ("x".join(map(str, reversed(size))) for size in (found, stored))
        raise ValueError("a mask has {} pixels and its picture {}".format(*sizes))


# ---- the way to a device


def as_bits(found: Sequence[Piece | None], objects: int, capacity: int) -> dict[str, np.ndarray]:
    """Bitmaps as bits, of fixed shapes whatever they are.

    found: of each object its bitmap, None where it has none. objects: of which there is room; capacity: bytes for which
    there is room.

    Returns "mask_bits" (capacity,) uint8, the bitmaps one after the other, their rows as numpy.packbits makes them, and
    "mask_crops" (objects, 5) int32: the first byte of each, and its top, left, height and width, as
    `ops.mask_targets` takes them; "has_mask" (objects,) bool: whether an object has one. One that finds no room any
    more has none. 100 objects that each cover a tenth of a canvas of 1344x800 take 1.3 MB where whole bitmaps have
    107 MB.
    """
    bits, crops = np.zeros(capacity, np.uint8), np.zeros((objects, 5), np.int32)
    has_mask, used = np.zeros(objects, bool), 0
    for number, piece in enumerate(found):
        if piece is None:
            continue
        packed = np.packbits(piece.bitmap, axis=1)
        if used + packed.size > capacity:
            continue
        bits[used : used + packed.size] = packed.ravel()
        crops[number] = used, piece.top, piece.left, *piece.bitmap.shape
        has_mask[number] = True
        used += packed.size
    return {"mask_bits": bits, "mask_crops": crops, "has_mask": has_mask}
