"""Where the files of a split with boxes may lie, and what all readers of them share."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unireplknet_jax.data.base import first_line, listed, nearest
from unireplknet_jax.data.classes import in_natural_order, places_among
from unireplknet_jax.data.files import misplaced, natural_key, read_file
from unireplknet_jax.data.folder import class_folders, sorted_out
from unireplknet_jax.data.label_names import read_label_file
from unireplknet_jax.data.pictures.box_annotations import Annotations
from unireplknet_jax.data.pictures.decode import SUFFIXES

CLASS_LISTS = ("classes.txt", "classes.names", "obj.names")
_OTHERS = {  # what people call a split
    "train": ("train", "training", "train2017"),
    "val": ("val", "valid", "validation", "val2017"),
    "test": ("test", "testing", "test2017"),
}


def split_names(split: str) -> tuple[str, ...]:
    """A split's name and others that are used for it; the names of another split are not among them."""
    return (split, *(name for name in _OTHERS.get(split, ()) if name != split))


def given(root: Path, split: str, data: Mapping[str, Any], option: str) -> Path | None:
    """The path that data[option] gives, below `root` or elsewhere, with the split for {split}; None for none."""
    text = data.get(option)
    if not text:
        return None
    path = root / Path(str(text).replace("{split}", split)).expanduser()
    if not path.exists():
        raise ValueError(f"data.{option} is {text}, but {path} is not there")
    return path


def json_of(path: Path, expected: str) -> Any:
    """What a JSON holds; ValueError, one sentence, for another file. expected: what it should be."""
    file = read_file(path, "a JSON of annotations")
    what = misplaced(file)
    try:
        found = None if what else json.loads(file)
    except UnicodeDecodeError:
        what = "no text, as a JSON is"
    except (ValueError, RecursionError) as error:
        what = f"no whole JSON ({first_line(error)})"
    if what:
        raise ValueError(f"{path} is {what}; expected {expected}")
    return found


def first_there(places: Iterable[Path]) -> Path | None:
    """The first of several paths that is there."""
    return next((place for place in places if place.exists()), None)


def picture_folder(root: Path, split: str, data: Mapping[str, Any], names: Sequence[str]) -> Path:
    """The folder in which pictures of these names lie; where none has the first, the likeliest one."""
    chosen = given(root, split, data, "pictures")
    if chosen is not None:
        return chosen
    splits = split_names(split)
    places = [root / name for name in splits] + [root / "images" / name for name in splits]
    places += [root / name / "images" for name in splits] + [root / "images", root / "JPEGImages", root]
    holding = (place for place in places for name in names[:1] if (place / name).is_file())
    return next(holding, None) or next((place for place in places if place.is_dir()), root)


def below(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """{path without its ending: path} of the files with such endings below a folder; ValueError for two of one name."""
    found: dict[str, str] = {}
    for name in sorted_out(str(folder), suffixes)[0]:
        stem = os.path.splitext(name)[0]
        if stem in found:
            raise ValueError(f"{folder} has {found[stem]} and {name}, two files of one name; keep one")
        found[stem] = name
    return dict(sorted(found.items(), key=lambda item: natural_key(item[0])))


def pictures_below(folder: Path) -> dict[str, str]:
    """{path without its ending: path} of the pictures below a folder."""
    return below(folder, SUFFIXES)


def no_split(root: Path, split: str, places: Sequence[Path]) -> ValueError:
    """The error about a folder in which none of several places of a split is there."""
    return ValueError(
        f"{root} has no annotations of the split {split!r}: none of "
        f"{listed([str(place.relative_to(root)) for place in places], 8)} is there; the folders in it are: "
        f"{listed(class_folders(root)[0]) or 'none'}; data.annotations names another place"
    )


def class_list(path: Path | None) -> tuple[str, ...] | None:
    """The classes of a user's list, one a line; None for no path. ValueError for a class that stands twice."""
    if path is None:
        return None
    return distinct(read_label_file(path), path)


def distinct(labels: tuple[str, ...], path: Path) -> tuple[str, ...]:
    """The classes of a file; ValueError for one that stands twice."""
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"{path} has the class {listed(twice)} more than once; every class has its own name")
    return labels


def list_in(root: Path) -> tuple[str, ...] | None:
    """The classes of the list in a folder, one of `CLASS_LISTS`; None where there is none."""
    return class_list(first_there(root / name for name in CLASS_LISTS))


def only(annotations: Annotations, wanted: Sequence[str], path: Path) -> Annotations:
    """The annotations of some classes alone, in that order; what else there is is noted. path: of the list of them.

    Raises ValueError for a class that the annotations do not have.
    """
    labels = annotations.labels
    places = places_among(labels, wanted)
    for name, place in zip(wanted, places, strict=True):
        if place is None:
            raise ValueError(
                f"{path} has the class {name!r}, which {annotations.origin} has not; {nearest(name, labels)}"
            )
    kept = [place for place in places if place is not None]
    numbers = {place: number for number, place in enumerate(kept)}
    for picture in annotations.pictures:
        for thing in picture.things:
            if thing.label not in numbers:
                annotations.note(f"objects left out, of classes that {path} does not list", picture.name)
        own = [thing for thing in picture.things if thing.label in numbers]
        picture.things = [dataclasses.replace(thing, label=numbers[thing.label]) for thing in own]
    ids = tuple(annotations.category_ids[place] for place in kept)
    return dataclasses.replace(annotations, labels=tuple(wanted), category_ids=ids)


def name_classes(found: Annotations, names: Sequence[str], root: Path, known: Collection[str] | None) -> None:
    """Give annotations, whose objects have these names one after the other, their classes.

    They are those of the list in the folder, or else the sorted names. known: the names in the training split, where
    that is another one. Raises ValueError for a name that is in neither.
    """
    all_listed, origin = list_in(root), found.origin
    labels = all_listed or tuple(in_natural_order([*{*(names if known is None else known)}]))
    strange = sorted({*names} - {*labels})
    if strange:
        where = "the list of classes" if all_listed else "the training split"
        raise ValueError(
            f"{origin} has objects of the class {listed(strange)}, which {where} has not; the classes are "
            f"{listed(labels, 10)}"
        )
    numbers = {label: number for number, label in enumerate(labels)}
    things = [thing for picture in found.pictures for thing in picture.things]
    for thing, name in zip(things, names, strict=True):
        thing.label = numbers[name]
    found.labels, found.category_ids = labels, tuple(range(1, len(labels) + 1))


def other_split(split: str, data: Mapping[str, Any]) -> str | None:
    """The training split, in which classes are looked for; None where `split` is it."""
    train = data.get("train_split") or "train"
    return None if split == train else train
