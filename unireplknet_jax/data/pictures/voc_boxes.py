"""Pascal VOC's annotations: an XML for each picture.

Of the split "train", the XMLs lie, below data.dir, in Annotations/ with the names of the split's pictures in
ImageSets/Main/train.txt, as VOC itself has it; else in annotations/train/, train/annotations/ or train/. The pictures
lie in JPEGImages/, images/train/, train/images/, images/, or beside the XMLs, and have the same names but for the
ending. The classes are those of classes.txt, or else all that the training split has, sorted.

VOC counts pixels from 1: an object in the first column has xmin = 1, and xmax is its last column. Other programs write
xmin = 0 for it. Where an XML of this or the training split has a 0 or a fraction, all count from 0, which is
said in the log; data.first_pixel, 0 or 1, says it instead. An object that is `difficult` is taken as COCO's crowds are:
nothing is learned from it, and a score passes over it.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from unireplknet_jax.data.base import first_line
from unireplknet_jax.data.files import misplaced, natural_key, read_file
from unireplknet_jax.data.pictures.box_annotations import MOST_PIXELS, Annotated, Annotations, Thing
from unireplknet_jax.data.pictures.box_files import (
    below,
    first_there,
    given,
    name_classes,
    no_split,
    other_split,
    picture_folder,
    pictures_below,
    split_names,
)
from unireplknet_jax.data.text import lines_of

NAMES_CLASSES = True  # of its files name the classes, so that a list can choose some
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_EXPECTED = "an <annotation> with <object>s that have a <name> and a <bndbox>, as Pascal VOC has it"
_log = logging.getLogger(__name__)


def is_there(root: Path, split: str, data: Mapping[str, Any]) -> bool:
    """Whether a folder has a split in this form."""
    place = _place(root, split, data)
    return place is not None and bool(below(place, (".xml",)))


def read(root: Path, split: str, data: Mapping[str, Any]) -> Annotations:
    """The annotations of a split, its pictures in the order of their names, or of VOC's list.

    Raises ValueError, one sentence, for an XML of another form or without a picture, and for a class that is unknown.
    """
    first = data.get("first_pixel")
    if first not in (None, 0, 1):
        raise ValueError(f"data.first_pixel is {first!r}; expected 0 or 1, the number of a picture's first column")
    found, names = _split(root, split, data)
    train, known, everything = other_split(split, data), None, [*found.pictures]
    if train is not None and _place(root, train, data) is not None:
        trained_on, known = _split(root, train, data)
        everything += trained_on.pictures
    name_classes(found, names, root, known)
    if first is None:
        boxes = [thing.box for picture in everything for thing in picture.things]
        first = 0 if any(min(box[:2]) < 1 or any(map(_is_fraction, box)) for box in boxes) else 1
        _log.info("%s: the first column is taken for number %d (data.first_pixel says otherwise)", found.origin, first)
    for picture in found.pictures:
        for thing in picture.things:
            left, top, right, bottom = thing.box
            thing.box = (left - first, top - first, right, bottom)
    return found


def _place(root: Path, split: str, data: Mapping[str, Any]) -> Path | None:
    places = [] if not _listed(root, split) else [root / "Annotations"]
    found = given(root, split, data, "annotations") or first_there([*places, *_places(root, split)])
    return found if found is not None and found.is_dir() else None


def _places(root: Path, split: str) -> list[Path]:
    places = []
    for name in split_names(split):
        places += [root / folder / name for folder in ("annotations", "Annotations")]
        places += [root / name / folder for folder in ("annotations", "Annotations")] + [root / name]
    return places


def _listed(root: Path, split: str) -> list[str] | None:
    """The names in VOC's list of a split; None where there is none."""
    place = first_there(root / "ImageSets" / "Main" / f"{name}.txt" for name in split_names(split))
    if place is None:
        return None
    return [line.strip() for line in lines_of(place, "the name of a picture in every line") if line.strip()]


def _split(root: Path, split: str, data: Mapping[str, Any]) -> tuple[Annotations, list[str]]:
    """(the annotations of a split, the name of the class of each of its objects, whose labels are all 0)."""
    place = _place(root, split, data)
    if place is None:
        raise no_split(root, split, [root / "ImageSets" / "Main" / f"{split}.txt", *_places(root, split)])
    files = below(place, (".xml",))
    chosen = _listed(root, split) if not data.get("annotations") else None
    # A list of one class has a number behind each name, and a name may have a blank in it.
    chosen = chosen and [line if line in files else line.split()[0] for line in chosen]
    for stem in chosen or ():
        if stem not in files:
            raise ValueError(f"{place / stem}.xml is not there, though ImageSets/Main lists it")
    stems = chosen if chosen is not None else sorted(files, key=natural_key)
    folder = _pictures(root, split, data, place, stems)
    pictures = pictures_below(folder)
    found, names = Annotations(str(folder), [], (), (), str(place)), []
    for stem in stems:
        picture, own = _picture(place / files[stem], pictures, stem, folder)
        found.pictures.append(picture)
        names += own
    return found, names


def _pictures(root: Path, split: str, data: Mapping[str, Any], place: Path, stems: list[str]) -> Path:
    """The folder of the pictures: beside the XMLs, or the one that has a picture of the first one's name."""
    if not data.get("pictures") and stems and stems[0] in pictures_below(place):
        return place
    endings = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp", ".tif")
    for ending in endings:
        folder = picture_folder(root, split, data, [f"{stem}{ending}" for stem in stems[:1]])
        if stems and (folder / f"{stems[0]}{ending}").is_file():
            return folder
    return folder


def _picture(path: Path, pictures: Mapping[str, str], stem: str, folder: Path) -> tuple[Annotated, list[str]]:
    file = read_file(path, "an XML of boxes")
    what = misplaced(file)
    try:
        tree = None if what else ElementTree.fromstring(file)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two of encodings
        what = f"no whole XML ({first_line(error)})"
    if what or tree is None or tree.tag != "annotation":
        raise ValueError(f"{path} is {what or f'an XML of <{tree.tag}>'}; expected {_EXPECTED}")
    name = pictures.get(stem) or (tree.findtext("filename") or "").strip()
    if stem not in pictures and not (name and (folder / name).is_file()):
        raise ValueError(f"{path} has no picture; expected {folder / (os.path.splitext(stem)[0] + '.jpg')}")
    size = tuple(_whole(tree.findtext(f"size/{side}")) for side in ("height", "width"))
    things, names = [], []
    for entry in tree.findall("object"):
        label = (entry.findtext("name") or "").strip()
        try:
            box = [float(entry.findtext(f"bndbox/{corner}") or "") for corner in _CORNERS]
        except ValueError:
            box = [math.nan] * 4
        if not label or not all(map(math.isfinite, box)):
            raise ValueError(f"{path} has an <object> {label!r} without its <bndbox> in numbers; expected {_EXPECTED}")
        things.append(Thing((box[0], box[1], box[2], box[3]), 0, crowd=_is_difficult(entry)))
        names.append(label)
    return Annotated(
        name, things, (size[0], size[1]) if all(0 < side <= MOST_PIXELS for side in size) else (0, 0)
    ), names


def _is_difficult(entry: ElementTree.Element) -> bool:
    return (entry.findtext("difficult") or "").strip().lower() in ("1", "true")


def _is_fraction(value: float) -> bool:
    return value != int(value)


def _whole(text: str | None) -> int:
    return int(text) if text and text.strip().isdecimal() else 0
