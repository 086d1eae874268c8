"""YOLO's annotations: a text for each picture, in which a line is an object.

A line is a class number and the box's centre, width and height, `0 0.5 0.5 0.2 0.1`, or the class number and the
corners of a polygon, x1 y1 x2 y2 x3 y3 ...: shares of the picture's width and height. A picture without a text, or with
an empty one, has no objects. Keypoints behind a box, which `kpt_shape` in data.yaml tells, are left out.

Below data.dir lies data.yaml (or another *.yaml) with `names`, and, of each split, the folder of its pictures, such as
`train: images/train`; or there is classes.txt, classes.names or obj.names with a class in every line. Without a
yaml, or where it does not name the split, the pictures lie in images/SPLIT or SPLIT/images. The texts lie in the folder
that is called labels where that of the pictures is called images, or beside the pictures.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unireplknet_jax.data.base import first_line, listed
from unireplknet_jax.data.pictures.box_annotations import Annotated, Annotations, Thing, box_around
from unireplknet_jax.data.pictures.box_files import (
    below,
    class_list,
    distinct,
    first_there,
    given,
    list_in,
    no_split,
    pictures_below,
    split_names,
)
from unireplknet_jax.data.text import lines_of, read_text

NAMES_CLASSES = False  # of its files numbers the classes, so that a list names them
_EXPECTED = "lines of a class number and 4 shares of the picture (centre, width, height), or 6 and more of a polygon"
_BEYOND = 0.05  # that a share may lie outside of 0 to 1, as rounding and boxes at the border have it


def is_there(root: Path, split: str, data: Mapping[str, Any]) -> bool:
    """Whether a folder has a split in this form."""
    pictures = _pictures(root, split, data)
    texts = None if pictures is None else _texts(root, split, data, pictures)
    return texts is not None and any(stem not in _LISTS for stem in below(texts, (".txt",)))


def read(root: Path, split: str, data: Mapping[str, Any]) -> Annotations:
    """The annotations of a split, its pictures in the order of their names; coordinates are shares.

    Raises ValueError, one sentence, for a line of another form, a class without a name, and a text without a picture.
    """
    pictures = _pictures(root, split, data)
    if pictures is None:
        raise no_split(root, split, _places(root, split))
    _check_description(root, split, data)
    names = pictures_below(pictures)
    texts = _texts(root, split, data, pictures)
    if texts is None:
        raise ValueError(f"{pictures} has no texts of boxes: neither beside the pictures nor in a folder labels")
    stems = {stem: name for stem, name in below(texts, (".txt",)).items() if stem not in _LISTS}
    alone = [name for stem, name in stems.items() if stem not in names]
    if alone:
        more = f" (nor have {len(alone) - 1:,} others)" if len(alone) > 1 else ""
        raise ValueError(f"{texts / alone[0]} has no picture in {pictures}{more}; remove it, or add the picture")
    labels = _names(root, data)
    found = Annotations(str(pictures), [], labels, tuple(range(len(labels))), str(texts), relative=True)
    keypoints = _keypoints(root)
    for stem, name in names.items():
        things = _things(texts / stems[stem], labels, keypoints) if stem in stems else []
        found.pictures.append(Annotated(name, things))
    if keypoints:
        found.note("keypoints, which are left out", str(texts))
    return found


_LISTS = ("classes", "train", "val", "valid", "test")  # texts that list classes or pictures


def _yaml(root: Path) -> tuple[Path, dict[str, Any]] | None:
    places = [root / "data.yaml", root / "dataset.yaml", *sorted(root.glob("*.yaml")), *sorted(root.glob("*.yml"))]
    place = first_there(places)
    if place is None:
        return None
    import yaml

    text = read_text(place, "a YAML with names, as YOLO has it")
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{place} is no YAML ({first_line(error)}); expected names, as YOLO has it") from error
    return (place, found) if isinstance(found, dict) else None


def _names(root: Path, data: Mapping[str, Any]) -> tuple[str, ...]:
    labels = class_list(given(root, "", data, "classes"))
    description = _yaml(root)
    if labels is None and description is not None and "names" in description[1]:
        labels = _names_of(description[0], description[1]["names"])
    labels = labels or list_in(root)
    if labels is None:
        raise ValueError(f"{root} has no names of classes; expected names in data.yaml, or classes.txt with one a line")
    return labels


def _names_of(place: Path, names: Any) -> tuple[str, ...]:
    """The classes that a YAML names in a list, or in a mapping from their numbers."""
    if isinstance(names, Mapping):
        numbered = {int(key) if str(key).isdecimal() else key: name for key, name in names.items()}
        if {*numbered} != {*range(len(names))}:
            raise ValueError(f"{place} numbers its names {listed([*map(str, names)])}; expected 0, 1, 2, ...")
        names = [numbered[number] for number in range(len(names))]
    # YAML takes yes, no, on and off for truth values.
    if not isinstance(names, list) or any(isinstance(name, bool) or not isinstance(name, str | int) for name in names):
        raise ValueError(f"{place} has the names {str(names)[:60]}; expected a list of texts, yes and no in quotes")
    return distinct(tuple(map(str, names)), place)


def _keypoints(root: Path) -> int:
    """How many numbers follow each box, of keypoints."""
    description = _yaml(root)
    shape = description[1].get("kpt_shape") if description is not None else None
    whole = isinstance(shape, list) and all(isinstance(length, int) for length in shape)
    return math.prod(shape) if whole else 0


def _check_description(root: Path, split: str, data: Mapping[str, Any]) -> None:
    """Raise ValueError where a YAML names lists of pictures or several folders for a split, which are not read."""
    description = _yaml(root)
    for name in split_names(split) if description is not None and not data.get("pictures") else ():
        told = description[1].get(name)
        if isinstance(told, list) or (isinstance(told, str) and told.endswith(".txt")):
            raise ValueError(
                f"{description[0]} has {name}: {str(told)[:60]}; expected one folder of pictures, which "
                "data.pictures=images/{split}, say, names as well"
            )


def _places(root: Path, split: str) -> list[Path]:
    places = []
    for name in split_names(split):
        places += [root / "images" / name, root / name / "images", root / name]
    return places


def _pictures(root: Path, split: str, data: Mapping[str, Any]) -> Path | None:
    chosen = given(root, split, data, "pictures")
    if chosen is not None:
        return chosen
    description = _yaml(root)
    for name in split_names(split) if description is not None else ():
        text = description[1].get(name)
        if isinstance(text, str) and not text.endswith(".txt"):
            base = Path(str(description[1].get("path") or "."))
            # Exports write paths that begin above the folder, or of the machine that they were made on.
            given_path = Path(text.replace("\\", "/"))
            tails = [given_path, Path(*[part for part in given_path.parts if part != ".."])]
            place = first_there([root / base / tails[0], root / tails[0], root / tails[1]])
            if place is not None:
                return Path(os.path.normpath(place))
    return next((place for place in _places(root, split) if place.is_dir()), None)


def _texts(root: Path, split: str, data: Mapping[str, Any], pictures: Path) -> Path | None:
    chosen = given(root, split, data, "annotations")
    if chosen is not None:
        return chosen if chosen.is_dir() else None
    parts = list(pictures.parts)
    for index in reversed(range(len(root.parts), len(parts))):
        if parts[index] == "images":
            beside = Path(*parts[:index], "labels", *parts[index + 1 :])
            if beside.is_dir():
                return beside
    return pictures if any(stem not in _LISTS for stem in below(pictures, (".txt",))) else None


def _things(path: Path, labels: Sequence[str], keypoints: int) -> list[Thing]:
    things: list[Thing] = []
    if not path.stat().st_size:
        return things
    for number, line in enumerate(lines_of(path, _EXPECTED), 1):
        cells = line.split()
        if not cells:
            continue
        where = f"line {number} of {path}"
        try:
            label, *values = map(float, cells)
        except ValueError:
            label, values = -1.0, []
        if keypoints and len(values) == 4 + keypoints:
            values = values[:4]
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            what = "; the fifth is no score that could be read" if len(values) == 5 else ""
            raise ValueError(f"{where} is {line[:60]!r}; expected {_EXPECTED}{what}")
        if not (0 <= label < len(labels) and label == int(label)):
            raise ValueError(f"{where} has the class {cells[0]}; there are names of the classes 0 to {len(labels) - 1}")
        if not all(math.isfinite(value) and -_BEYOND <= value <= 1 + _BEYOND for value in values):
            raise ValueError(f"{where} is {line[:60]!r}; expected shares of the picture, from 0 to 1, not pixels")
        things.append(_thing(int(label), values))
    return things


def _thing(label: int, values: list[float]) -> Thing:
    if len(values) == 4:
        x, y, width, height = values
        return Thing((x - width / 2, y - height / 2, x + width / 2, y + height / 2), label)
    return Thing(box_around([values]), label, [values])
