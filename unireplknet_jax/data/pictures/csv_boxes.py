"""A table of boxes as CSV: a row for each object, with the columns file, xmin, ymin, xmax, ymax and label.

The columns may stand in any order and have other usual names; others are passed over. A table without a header has
these six in this order. A row whose four numbers are empty is a picture without objects, or without further ones.
Of the split "train" it is, below data.dir, train.csv, train_boxes.csv, annotations/train.csv, or one table in train/.
The pictures lie in train/, images/train/, train/images/, images/ or the folder itself. The classes are those of
classes.txt, or else all labels of the training split, sorted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unireplknet_jax.data.pictures.box_annotations import Annotated, Annotations, Thing
from unireplknet_jax.data.pictures.box_files import (
    first_there,
    given,
    name_classes,
    no_split,
    other_split,
    picture_folder,
    split_names,
)
from unireplknet_jax.data.tables import has_decimal_commas, number, rows_of_table

NAMES_CLASSES = True  # of its files name the classes, so that a list can choose some
_COLUMNS = {
    "file": ("file", "filename", "file name", "image", "image path", "image name", "picture", "path", "img"),
    "xmin": ("xmin", "x min", "x1", "left", "x0"),
    "ymin": ("ymin", "y min", "y1", "top", "y0"),
    "xmax": ("xmax", "x max", "x2", "right"),
    "ymax": ("ymax", "y max", "y2", "bottom"),
    "label": ("label", "class", "class name", "name", "category", "label name"),
}
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_EXPECTED = "the columns file,xmin,ymin,xmax,ymax,label, in pixels, and a row for each object"


def is_there(root: Path, split: str, data: Mapping[str, Any]) -> bool:
    """Whether a folder has a split in this form."""
    place = _place(root, split, data)
    if place is None or place.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return False
    rows, _ = rows_of_table(place, _EXPECTED)
    return bool(rows) and _columns(rows[0][1]) is not None


def read(root: Path, split: str, data: Mapping[str, Any]) -> Annotations:
    """The annotations of a split, its pictures in the order of the table.

    Raises ValueError, one sentence, for a table without one of the columns, a row without one of its numbers, and a
    class that is unknown.
    """
    found, names = _split(root, split, data)
    train, known = other_split(split, data), None
    if train is not None and _place(root, train, data) is not None:
        known = _split(root, train, data)[1]
    name_classes(found, names, root, known)
    return found


def _places(root: Path, split: str) -> list[Path]:
    places = []
    for name in split_names(split):
        places += [root / f"{name}.csv", root / f"{name}_boxes.csv", root / "annotations" / f"{name}.csv"]
        tables = sorted((root / name).glob("*.csv"))
        places += tables if len(tables) == 1 else []
    return places


def _place(root: Path, split: str, data: Mapping[str, Any]) -> Path | None:
    found = given(root, split, data, "annotations") or first_there(_places(root, split))
    return found if found is not None and found.is_file() else None


def _columns(cells: list[str]) -> dict[str, int] | None:
    """Where the columns are of a table whose first row has these cells; None where they are not all there."""
    names = [" ".join(cell.casefold().replace("_", " ").replace("-", " ").split()) for cell in cells]
    found = {
        kind: next((names.index(name) for name in known if name in names), None) for kind, known in _COLUMNS.items()
    }
    if None not in found.values():
        return {kind: place for kind, place in found.items() if place is not None}
    bare = len(cells) == 6 and all(map(_is_number_or_empty, cells[1:5]))
    return dict(zip(("file", *_CORNERS, "label"), range(6), strict=True)) if bare else None


def _is_number_or_empty(cell: str) -> bool:
    try:
        number(cell, True)
    except ValueError:
        return False
    return True


def _split(root: Path, split: str, data: Mapping[str, Any]) -> tuple[Annotations, list[str]]:
    """(the annotations of a split, the name of the class of each of its objects, whose labels are all 0)."""
    place = _place(root, split, data)
    if place is None:
        raise no_split(root, split, _places(root, split))
    rows, _ = rows_of_table(place, _EXPECTED)
    columns = _columns(rows[0][1]) if rows else None
    if columns is None:
        raise ValueError(f"{place} has the columns {','.join(rows[0][1])[:80] if rows else ''!r}; expected {_EXPECTED}")
    if not _is_number_or_empty(rows[0][1][columns["xmin"]]):  # a header
        rows = rows[1:]
    width = max(columns.values()) + 1
    decimal = has_decimal_commas(row[columns[corner]] for _, row in rows for corner in _CORNERS if len(row) >= width)
    things: dict[str, list[tuple[str, Thing]]] = {}
    for line, row in rows:
        cells = {kind: row[column] if column < len(row) else "" for kind, column in columns.items()}
        name = os.path.normpath(cells["file"].replace("\\", "/"))
        own = things.setdefault(name, [])
        try:
            box = [number(cells[corner], decimal) for corner in _CORNERS]
        except ValueError as error:
            raise ValueError(f"line {line} of {place}: {error}; expected {_EXPECTED}") from error
        empty = [corner for corner, value in zip(_CORNERS, box, strict=True) if math.isnan(value)]
        if not cells["file"] or (empty and len(empty) < 4) or (not empty and not cells["label"]):
            raise ValueError(f"line {line} of {place} is {','.join(row)[:60]!r}; expected {_EXPECTED}")
        if not empty:
            own.append((cells["label"], Thing((box[0], box[1], box[2], box[3]), 0)))
    folder = _folder(root, split, data, place, [*things])
    pictures = [Annotated(name, [thing for _, thing in own]) for name, own in things.items()]
    labels = [label for own in things.values() for label, _ in own]
    return Annotations(str(folder), pictures, (), (), str(place)), labels


def _folder(root: Path, split: str, data: Mapping[str, Any], place: Path, names: list[str]) -> Path:
    """The folder of the pictures, which may be that of the table."""
    folder = picture_folder(root, split, data, names)
    here = place.parent
    return here if names and not (folder / names[0]).is_file() and (here / names[0]).is_file() else folder
