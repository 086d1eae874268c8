"""A split whose files lie in one folder, with their classes in a list beside it, as ImageNet's validation part has."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unireplknet_jax.data.base import listed
from unireplknet_jax.data.classes import in_natural_order, places_among
from unireplknet_jax.data.files import LabelledFiles, Names
from unireplknet_jax.data.tables import separator_of
from unireplknet_jax.data.text import lines_of

_ENDINGS = (".csv", ".tsv", ".txt")
_STEMS = ("{}", "{}_labels", "{}_annotations", "{}_solution", "LOC_{}_solution", "labels")
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_HEADERS = {"file", "filename", "file_name", "name", "path", "image", "image_id", "imageid", "id"}
_EXPECTED = "a list with a file and a class in every line, or a class a line in the order of the files"
_log = logging.getLogger(__name__)


def list_of(folder: Path, split: str) -> Path | None:
    """The list of classes of a split's folder: in it, beside it or named as known sets do; None where there is none."""
    stems = [stem.format(split) for stem in _STEMS]
    places = [place / f"{stem}{ending}" for place in (folder, folder.parent) for stem in stems for ending in _ENDINGS]
    places += [folder / _GROUND_TRUTH, folder.parent / _GROUND_TRUTH, folder.parent / "data" / _GROUND_TRUTH]
    return next((place for place in places if place.is_file()), None)


def open_flat(folder: str, names: Sequence[str], path: Path, known: Sequence[str]) -> LabelledFiles:
    """The files `names` below a folder with the classes of the list at `path`, in the order of class and name.

    A line of the list is a file, with or without its ending, and its class, between commas, semicolons, tabs or blanks;
    what follows the class, such as a box, is left out, and so is a header. Or it is a class, and the lines are as many
    as the files, in the order of their names. known: the classes of the training split in their order, if there is one;
    a class is one of their names (`classes.places_among`), or a number of them from 0, which is said in the log.

    Raises ValueError, one sentence, for another list, for unknown classes, and for numbers from 1, whose order nobody
    can tell: those of ImageNet's development kit are not in the order of its folders.
    """
    lines = [(number, line.strip()) for number, line in enumerate(lines_of(path, _EXPECTED), 1)]
    rows = [(number, _cells(line)) for number, line in lines if line]
    classes = _by_name(rows, names, path)
    missing = sorted({*names} - classes.keys())
    if missing:
        _log.warning("%s: %d files of %s are not in it, and left out: %s", path, len(missing), folder, listed(missing))
    if not classes:
        raise ValueError(f"{path} names none of the {len(names):,} files of {folder}; expected {_EXPECTED}")
    labels, numbers = _numbered(classes, known, path)
    ordered = sorted(classes, key=lambda name: (numbers[classes[name]], name))
    targets = np.array([numbers[classes[name]] for name in ordered], np.int32)
    return LabelledFiles(folder, Names(ordered), targets, tuple(labels))


def _cells(line: str) -> list[str]:
    mark = separator_of(line)
    try:
        cells = next(csv.reader([line], delimiter=mark, skipinitialspace=True)) if mark else line.rsplit(None, 1)
    except csv.Error:  # of a field that is too long for it, say
        cells = [line]
    return [cell.strip().strip('"').strip() for cell in cells]


def _by_name(rows: Sequence[tuple[int, list[str]]], names: Sequence[str], path: Path) -> dict[str, str]:
    """{file: the class that a list gives it}."""
    single = [number for number, cells in rows if len(cells) == 1]
    if len(single) == len(rows):
        if len(rows) != len(names):
            raise ValueError(
                f"{path} has {len(rows):,} lines of one class for {len(names):,} files; expected {_EXPECTED}"
            )
        return {name: cells[0] for name, (_, cells) in zip(sorted(names), rows, strict=True)}
    if single:
        raise ValueError(f"line {single[0]} of {path} has no class; expected {_EXPECTED}")
    there = {}
    for name in names:
        base = os.path.basename(name)
        there |= {os.path.splitext(base)[0]: name, base: name, name: name}
    header = rows[0][1][0].lower() in _HEADERS and rows[0][1][0] not in there
    found, absent = {}, []
    for _, cells in rows[header:]:
        name = there.get(cells[0])
        if name is None:
            absent.append(cells[0])
        else:
            synset = re.match(r"n\d{8}(?= )", cells[1])  # Kaggle has a box after it
            found[name] = synset[0] if synset else cells[1]
    if absent and found:
        _log.warning("%s: %d of its files are not there: %s", path, len(absent), listed(absent))
    return found


def _numbered(classes: dict[str, str], known: Sequence[str], path: Path) -> tuple[Sequence[str], dict[str, int]]:
    """(class names in their order, {class as it stands in the list: its number})."""
    distinct = in_natural_order(sorted({*classes.values()}))
    labels = known or distinct
    places = places_among(labels, distinct)
    if None not in places:
        return labels, {name: int(place or 0) for name, place in zip(distinct, places, strict=True)}
    unknown = [name for name, place in zip(distinct, places, strict=True) if place is None]
    numbers = [int(name) if name.isdecimal() else -1 for name in distinct]
    if min(numbers) < 0 or len(unknown) < len(distinct):
        raise ValueError(f"{path} has the unknown class {listed(unknown)}; expected some of {listed(labels)}")
    if max(numbers) >= len(labels) or min(numbers) > 0:
        raise ValueError(
            f"{path} has numbers of classes from {min(numbers)} to {max(numbers)}, whose order cannot be told "
            "(ImageNet's development kit has another than its folders); give a file and the name of its class in every "
            "line"
        )
    _log.warning("%s: its numbers are taken in the order of the class folders: 0 is %s", path, labels[0])
    return labels, dict(zip(distinct, numbers, strict=True))
