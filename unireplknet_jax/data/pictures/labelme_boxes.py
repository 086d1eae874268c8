"""LabelMe's annotations: a JSON for each picture, with "shapes".

The JSONs of the split "train" lie, below data.dir, in train/, annotations/train/ or train/annotations/. Each picture
has the same name but for the ending, beside the JSON or in images/train/, train/images/ or images/, or lies where its
"imagePath" says. Polygons, rectangles, circles and masks are objects; shapes with the same label and group_id are parts
of one. A rectangle is a box without a mask. Points, lines and strips of lines are no objects. The classes are those of
classes.txt, or else all labels of the training split, sorted.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unireplknet_jax.data.pictures.box_annotations import MOST_PIXELS, Annotated, Annotations, Thing, box_around
from unireplknet_jax.data.pictures.box_files import (
    below,
    first_there,
    given,
    json_of,
    name_classes,
    no_split,
    other_split,
    picture_folder,
    pictures_below,
    split_names,
)
from unireplknet_jax.data.pictures.instance_masks import cropped, run_lengths

NAMES_CLASSES = True  # of its files name the classes, so that a list can choose some
_EXPECTED = 'an object with "shapes", as LabelMe has it'
_MOST_AREA = 2**28  # pixels of a picture with masks
_CORNERS = 72  # of a circle
_NO_OBJECTS = ("point", "points", "line", "linestrip")


def is_there(root: Path, split: str, data: Mapping[str, Any]) -> bool:
    """Whether a folder has a split in this form."""
    place = _place(root, split, data)
    return place is not None and any(_is_labelme(place / name) for name in [*below(place, (".json",)).values()][:3])


def read(root: Path, split: str, data: Mapping[str, Any]) -> Annotations:
    """The annotations of a split, its pictures in the order of their names.

    Shapes that are no objects, and polygons of fewer than three corners, are left out and noted.
    Raises ValueError, one sentence, for a JSON of another form or without a picture, and for a class that is unknown.
    """
    found, names = _split(root, split, data)
    train, known = other_split(split, data), None
    if train is not None and _place(root, train, data) is not None:
        known = _split(root, train, data)[1]
    name_classes(found, names, root, known)
    return found


def _place(root: Path, split: str, data: Mapping[str, Any]) -> Path | None:
    found = given(root, split, data, "annotations") or first_there(_places(root, split))
    return found if found is not None and found.is_dir() else None


def _places(root: Path, split: str) -> list[Path]:
    places = []
    for name in split_names(split):
        places += [root / "annotations" / name, root / name / "annotations", root / name]
    return places


def _is_labelme(path: Path) -> bool:
    with path.open("rb") as file:
        return b'"shapes"' in file.read()


def _split(root: Path, split: str, data: Mapping[str, Any]) -> tuple[Annotations, list[str]]:
    """(the annotations of a split, the name of the class of each of its objects, whose labels are all 0)."""
    place = _place(root, split, data)
    if place is None:
        raise no_split(root, split, _places(root, split))
    files = below(place, (".json",))
    beside = pictures_below(place)
    names = [beside[stem] for stem in files if stem in beside] or [f"{stem}.jpg" for stem in [*files][:1]]
    folder = place if beside else picture_folder(root, split, data, names)
    pictures = beside or pictures_below(folder)
    found, labels = Annotations(str(folder), [], (), (), str(place)), list[str]()
    for stem, name in files.items():
        document = _document(place / name)
        picture = pictures.get(stem) or _stated(document, place / name, folder)
        if picture is None:
            raise ValueError(f"{place / name} has no picture; expected {folder / (stem + '.jpg')}")
        sides = document.get("imageHeight"), document.get("imageWidth")
        size = (
            (sides[0], sides[1]) if all(isinstance(side, int) and 0 < side <= MOST_PIXELS for side in sides) else (0, 0)
        )
        things = _things(found, place / name, document, size)
        found.pictures.append(Annotated(picture, [thing for _, thing in things], size))
        labels += [label for label, _ in things]
    return found, labels


def _document(path: Path) -> dict[str, Any]:
    found = json_of(path, _EXPECTED)
    if not isinstance(found, dict) or not isinstance(found.get("shapes"), list):
        raise ValueError(f"{path} is another JSON; expected {_EXPECTED}")
    return found


def _stated(document: Mapping[str, Any], path: Path, folder: Path) -> str | None:
    """The picture that a JSON names, below the folder of the pictures or as a whole path."""
    name = str(document.get("imagePath") or "").replace("\\", "/")
    for place in (path.parent / name, folder / os.path.basename(name)) if name else ():
        if place.is_file():
            place = Path(os.path.normpath(place))
            return str(place.relative_to(folder) if place.is_relative_to(folder) else place.absolute())
    return None


def _things(
    found: Annotations, path: Path, document: Mapping[str, Any], size: tuple[int, int]
) -> list[tuple[str, Thing]]:
    """[(label, object), ...] of a JSON."""
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for number, shape in enumerate(document["shapes"]):
        if not (isinstance(shape, Mapping) and isinstance(shape.get("label"), str) and shape["label"].strip()):
            raise ValueError(f"{path} has the shape {str(shape)[:60]}, which has no label; expected {_EXPECTED}")
        group = shape.get("group_id")
        groups.setdefault((shape["label"], str(group)) if group is not None else number, []).append(shape)
    things = []
    for shapes in groups.values():
        label, parts = shapes[0]["label"].strip(), []
        for shape in shapes:
            part = _part(path, shape, size)
            if part is None:
                found.note("shapes that are no objects, which are left out", f"{path} ({label})")
            else:
                parts.append(part)
        if parts:
            thing = _joined(path, parts)
            is_box = all(shape.get("shape_type") == "rectangle" for shape in shapes)
            things.append((label, dataclasses.replace(thing, mask=None) if is_box else thing))
    return things


def _part(path: Path, shape: Mapping[str, Any], size: tuple[int, int]) -> list[float] | np.ndarray | None:
    """The corners of a shape, or the bitmap of a mask; None where it is no object."""
    kind = shape.get("shape_type") or "polygon"
    if kind in _NO_OBJECTS:
        return None
    try:
        points = np.array(shape["points"], np.float64)
        points = points if points.size else points.reshape(0, 2)
    except (KeyError, ValueError, TypeError):
        points = np.full((1, 2), math.nan)
    if points.shape[1:] != (2,) or not np.isfinite(points).all():
        raise ValueError(f"{path} has the shape {str(shape)[:60]}; expected points [[x, y], ...]")
    if kind == "mask":
        return _mask(path, shape, points, size)
    if kind == "rectangle" and len(points) >= 2:
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        return [left, top, right, top, right, bottom, left, bottom]
    if kind == "circle" and len(points) == 2:
        radius, turns = math.dist(*points), 2 * math.pi * np.arange(_CORNERS) / _CORNERS
        return (points[:1] + radius * np.stack([np.cos(turns), np.sin(turns)], axis=-1)).ravel().tolist()
    if kind in ("polygon", "oriented_rectangle"):
        return points.ravel().tolist() if len(points) >= 3 else None
    raise ValueError(f"{path} has a shape of the type {kind!r} with {len(points)} points, which is not read")


def _mask(path: Path, shape: Mapping[str, Any], points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask that LabelMe keeps as a PNG of its box, as a bitmap of the whole picture, (h, w) bool."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as picture:
            own = np.asarray(picture.convert("L")) > 0
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise ValueError(
            f"{path} has a mask that cannot be read; expected a PNG in it, as LabelMe writes it"
        ) from error
    if not len(points):
        raise ValueError(f"{path} has a mask without points; expected the corners of its box, [[x, y], [x, y]]")
    left, top = (round(value) for value in points[0])
    if not 0 < size[0] * size[1] <= _MOST_AREA:
        raise ValueError(f"{path} has a mask, but no imageHeight and imageWidth of a picture; expected both")
    whole = np.zeros(size, bool)
    if not own.any() or min(left, top) < 0 or whole[top:, left:][: own.shape[0], : own.shape[1]].shape != own.shape:
        raise ValueError(
            f"{path} has a mask that is empty, or does not lie in its picture of {size[1]}x{size[0]} pixels"
        )
    whole[top : top + own.shape[0], left : left + own.shape[1]] = own
    return whole


def _joined(path: Path, parts: Sequence[list[float] | np.ndarray]) -> Thing:
    """The object that is made of parts."""
    polygons = [part for part in parts if isinstance(part, list)]
    if len(polygons) == len(parts):
        return Thing(box_around(polygons), 0, polygons)
    if len(parts) > 1:
        raise ValueError(f"{path} has a mask in a group with other shapes; give each object one mask, or polygons")
    (mask,) = parts
    piece = cropped(mask)
    height, width = piece.bitmap.shape
    box = float(piece.left), float(piece.top), float(piece.left + width), float(piece.top + height)
    return Thing(box, 0, run_lengths(mask), area=float(piece.bitmap.sum()))
