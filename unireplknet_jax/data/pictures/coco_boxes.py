"""COCO's annotations: one JSON for a split, with "images", "annotations" and "categories".

Of the split "train" it is, below data.dir, the first of annotations/instances_train2017.json, as COCO itself has it,
annotations/instances_train.json, annotations/train.json, train.json, and in the folder train/ (or images/train/)
_annotations.coco.json or annotations.json; other names of a split, such as valid or val2017, are looked for, too.
The pictures lie in train/, train2017/, images/train/, images/ or the folder itself.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unireplknet_jax.data.base import listed
from unireplknet_jax.data.pictures.box_annotations import (
    MOST_PIXELS,
    Annotated,
    Annotations,
    Thing,
    box_around,
    polygons_of,
    usable_mask,
)
from unireplknet_jax.data.pictures.box_files import first_there, given, json_of, no_split, picture_folder, split_names

NAMES_CLASSES = True  # of its files name the classes, so that a list can choose some
_EXPECTED = 'an object {"images": [...], "annotations": [...], "categories": [...]}, as COCO has it'
_UNSET = (None, 0, "", "0", "false", "False")  # flags, as some programs write them
_LARGE = 50e6  # bytes that take a while
_log = logging.getLogger(__name__)


def is_there(root: Path, split: str, data: Mapping[str, Any]) -> bool:
    """Whether a folder has a split in this form."""
    place = _place(root, split, data)
    if place is None or place.suffix.lower() != ".json":
        return False
    with place.open("rb") as file:
        return b'"shapes"' not in file.read(2048)  # LabelMe's


def read(root: Path, split: str, data: Mapping[str, Any]) -> Annotations:
    """The annotations of a split, its pictures in the file's order; category ids may have gaps and any order.

    An annotation of a picture or a category that the file does not list is left out, ids of annotations play no part,
    a polygon of fewer than three corners is left out, and where none remains an object has a box alone: each is noted.
    Raises ValueError, one sentence, for another file, and for entries without what COCO's have.
    """
    place = _place(root, split, data)
    if place is None:
        raise no_split(root, split, _places(root, split))
    document = _document(place)
    labels, categories = _categories(place, document["categories"])
    pictures: dict[Any, Annotated] = {}
    for entry in document["images"]:
        picture = _picture(place, entry)
        if picture.number in pictures:
            raise ValueError(f"{place} has the picture id {picture.number} more than once; give each its own")
        pictures[picture.number] = picture
    names = [picture.name for picture in pictures.values()]
    folder = picture_folder(root, split, data, names)
    if names and "pictures" not in data and not (folder / names[0]).is_file() and (place.parent / names[0]).is_file():
        folder = place.parent
    found = Annotations(str(folder), [*pictures.values()], labels, (*categories,), str(place))
    numbers = {number: label for label, number in enumerate(categories)}
    seen: set[Any] = set()
    for entry in document["annotations"]:
        number = entry.get("id") if isinstance(entry, Mapping) else None
        where = f"annotation {number}"
        if isinstance(number, int | str):
            if number in seen:
                found.note("annotation ids that stand more than once, which changes nothing", where)
            seen.add(number)
        _add(found, pictures, numbers, entry, where)
    return found


def _places(root: Path, split: str) -> list[Path]:
    places = []
    for name in split_names(split):
        places += [root / "annotations" / f"instances_{name}.json", root / "annotations" / f"{name}.json"]
        places += [root / f"instances_{name}.json", root / f"{name}.json"]
        for folder in (root / name, root / "images" / name):
            places += [folder / "_annotations.coco.json", folder / "annotations.json"]
    return places


def _place(root: Path, split: str, data: Mapping[str, Any]) -> Path | None:
    return given(root, split, data, "annotations") or first_there(_places(root, split))


def _document(place: Path) -> dict[str, Any]:
    if os.path.getsize(place) > _LARGE:
        _log.info("reading %s, %.0f MB", place, os.path.getsize(place) / 1e6)
    found = json_of(place, _EXPECTED)
    if not isinstance(found, dict):
        what = "nothing" if found is None else f"a {type(found).__name__}"
        raise ValueError(f"{place} has {what}; expected {_EXPECTED}")
    lacking = [part for part in ("images", "annotations", "categories") if not isinstance(found.get(part), list)]
    if lacking:
        raise ValueError(f"{place} has no list of {listed(lacking)}; expected {_EXPECTED}")
    return found


def _categories(place: Path, entries: Sequence[Any]) -> tuple[tuple[str, ...], list[int]]:
    """(names, ids) of the categories in the file's order."""
    for entry in entries:
        named = isinstance(entry, Mapping) and isinstance(entry.get("name"), str) and entry["name"].strip()
        if not (named and isinstance(entry.get("id"), int)):
            raise ValueError(f'{place} has the category {str(entry)[:60]}; expected {{"id": a number, "name": a text}}')
    labels, ids = tuple(entry["name"] for entry in entries), [entry["id"] for entry in entries]
    for kind, values in (("name", labels), ("id", ids)):
        twice = [str(value) for value in dict.fromkeys(values) if values.count(value) > 1]
        if twice:
            raise ValueError(f"{place} has the category {kind} {listed(twice)} more than once; give each its own")
    return labels, ids


def _picture(place: Path, entry: Any) -> Annotated:
    if not (isinstance(entry, Mapping) and isinstance(entry.get("id"), int | str) and entry.get("file_name")):
        raise ValueError(f'{place} has the picture {str(entry)[:60]}; expected {{"id": ..., "file_name": ...}}')
    sides = entry.get("height"), entry.get("width")
    known = all(isinstance(side, int | float) and 0 < side <= MOST_PIXELS for side in sides)
    size = (int(sides[0]), int(sides[1])) if known else (0, 0)
    return Annotated(os.path.normpath(str(entry["file_name"]).replace("\\", "/")), [], size, entry["id"])


def _add(
    found: Annotations, pictures: Mapping[Any, Annotated], numbers: Mapping[int, int], entry: Any, where: str
) -> None:
    """Put an annotation to its picture."""
    try:
        picture, label = pictures.get(entry["image_id"]), numbers.get(entry["category_id"])
    except (TypeError, KeyError) as error:
        raise ValueError(f"{found.origin} has {str(entry)[:60]}; expected image_id and category_id in it") from error
    if picture is None:
        return found.note("annotations left out, of pictures that the file does not list", where)
    if label is None:
        return found.note("annotations left out, of categories that the file does not list", where)
    segmentation = entry.get("segmentation")
    mask = usable_mask(segmentation)
    if isinstance(segmentation, list) and len(mask or ()) < len(polygons_of(segmentation)):
        found.note("masks with polygons of fewer than three corners, which are left out", where)
    area = entry.get("area")
    thing = Thing(
        _box(found.origin, entry, mask, where),
        label,
        mask,
        entry.get("iscrowd") not in _UNSET,
        entry.get("ignore") not in _UNSET,
        float(area) if isinstance(area, int | float) and math.isfinite(area) else None,
    )
    picture.things.append(thing)
    return None


def _box(origin: str, entry: Mapping[str, Any], mask: Any, where: str) -> tuple[float, float, float, float]:
    box = entry.get("bbox")
    try:
        if not box and isinstance(mask, list):
            found = box_around(mask)
        else:
            left, top, width, height = map(float, box)  # type: ignore[arg-type]
            found = left, top, left + width, top + height
    except (TypeError, ValueError):
        found = (math.nan,) * 4
    if not all(map(math.isfinite, found)):
        raise ValueError(f"{where} of {origin} has the box {str(box)[:60]}; expected [left, top, width, height]")
    return found
