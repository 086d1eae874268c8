"""Classes of masks: their names, the values and colours that stand for them in files, read from a list of a user."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ImageColor

from unireplknet_jax.data.base import listed
from unireplknet_jax.data.label_names import read_colours, read_labels
from unireplknet_jax.data.pictures.masks import MOST, Colour
from unireplknet_jax.data.tables import rows_of_table

EXPECTED = "a class in every line: its name and, optionally, its value in the masks and its colour"
LISTS = ("classes.csv", "classes.txt")
_COLUMNS = {
    "name": ("name", "class", "class name", "classname", "label", "label name"),
    "value": ("value", "id", "index", "number", "pixel", "pixel value", "grey", "gray", "class id"),
    "colour": ("colour", "color", "rgb", "hex", "palette"),
    "red": ("r", "red"),
    "green": ("g", "green"),
    "blue": ("b", "blue"),
}
_IGNORED = ("ignore", "ignored")  # in place of a value
_TRIPLE = r"\d{1,3}\s+\d{1,3}\s+\d{1,3}"
_FORMS = (  # of a line without separators, and what its parts are
    (re.compile(rf"(\D.*)\s+({_TRIPLE})"), ["name", "colour"]),
    (re.compile(rf"({_TRIPLE})\s+(\D.*)"), ["colour", "name"]),
    (re.compile(r"(\d+)\s*[:=\s]\s*(\S.*)"), ["value", "name"]),
)


@dataclass(frozen=True)
class MaskClasses:
    """Classes in their order. values: of each in the files; colours: of each, for drawing if not for reading.

    coloured: whether a list gave the colours, by which masks of colours are read then; ignored_colours: those of pixels
    without a class.
    """

    labels: tuple[str, ...]
    values: tuple[int, ...]
    colours: tuple[Colour, ...]
    coloured: bool = False
    ignored_colours: tuple[Colour, ...] = ()


def ade20k_classes() -> MaskClasses:
    """The 150 classes of ADE20K, which have the values 1 to 150 in its masks; 0 is none."""
    labels = read_labels("ade20k")
    return MaskClasses(labels, tuple(range(1, len(labels) + 1)), read_colours("ade20k"))


def classes_of(folder: Path, first: int = 0) -> MaskClasses | None:
    """Those of the list in a folder, classes.csv or classes.txt; None where there is none. first: as of `read_classes`.

    Raises ValueError as `read_classes` does.
    """
    found = [folder / name for name in LISTS if (folder / name).is_file()]
    return read_classes(found[0], first) if found else None


def read_classes(path: Path, first: int = 0) -> MaskClasses:
    """The classes in a user's list, one in a line: NAME, NAME,VALUE, NAME,VALUE,COLOUR or NAME,COLOUR.

    Cells stand between commas, semicolons or tabs. A colour is #RRGGBB, three numbers with blanks between them, or
    three cells. A header may name the columns: name, value, colour, or red, green and blue, in any order. Without one,
    values may stand before the names. In a list without values the first class has the value `first`, and the others
    follow. A line with the value "ignore" gives the colour of pixels without a class.

    Raises ValueError, one sentence with the path, for another list, and for a name, value or colour that stands twice.
    """
    rows, _ = rows_of_table(path, EXPECTED)
    if not rows:
        raise ValueError(f"{path} is empty; expected {EXPECTED}")
    header = _header(rows[0][1])
    found = [_entry(path, line, cells, header) for line, cells in (rows[1:] if header else rows)]
    classes = [each for each in found if each.value not in _IGNORED]
    if not classes:
        raise ValueError(f"{path} has no class; expected {EXPECTED}")
    labels = tuple(each.name for each in classes)
    texts = [each.value for each in classes]
    if "" in texts and any(texts):
        raise ValueError(f"{path} gives {labels[texts.index('')]} no value, but others one; give all a value, or none")
    values = tuple(map(int, texts)) if any(texts) else tuple(range(first, first + len(classes)))
    colours = tuple(each.colour for each in classes if each.colour is not None)
    if colours and len(colours) < len(classes):
        bare = next(each.name for each in classes if each.colour is None)
        raise ValueError(f"{path} gives {bare} no colour, but others one; give all a colour, or none")
    ignored = tuple(each.colour for each in found if each.value in _IGNORED and each.colour is not None)
    for kind, given in (("name", labels), ("value", values), ("colour", (*colours, *ignored))):
        twice = [str(each) for each in dict.fromkeys(given) if given.count(each) > 1]
        if twice:
            raise ValueError(f"{path} has the {kind} {listed(twice)} more than once; every class has its own")
    if max(values) > MOST:
        raise ValueError(f"{path} has the value {max(values)}; expected 0 to {MOST}")
    return MaskClasses(labels, values, colours or distinct_colours(len(labels)), bool(colours), ignored)


@dataclass(frozen=True)
class _Entry:
    name: str
    value: str  # "" where there is none
    colour: Colour | None


def _header(cells: Sequence[str]) -> list[str] | None:
    """What each column of a list is; None where the first line is a class."""
    kinds = {name: kind for kind, names in _COLUMNS.items() for name in names}
    found = [kinds.get(" ".join(cell.casefold().replace("_", " ").split()), "") for cell in cells]
    return found if found.count("name") == 1 and (len(found) == 1 or any({*found} - {"name", ""})) else None


def _entry(path: Path, line: int, cells: list[str], header: list[str] | None) -> _Entry:
    where = f"line {line} of {path}"
    if header is None:
        cells, header = _sorted_out(cells)
    row = dict(zip(header, cells, strict=False))
    name, value, colour = row.get("name", ""), row.get("value", "").casefold(), row.get("colour", "")
    if {"red", "green", "blue"} & row.keys():
        colour = " ".join(row.get(each, "") for each in ("red", "green", "blue")).strip()
    if not name or len(cells) > len(header):
        raise ValueError(f"{where} is {','.join(cells)[:60]!r}; expected {EXPECTED}, such as road,0,#804080")
    if value and value not in _IGNORED and not value.isdecimal():
        raise ValueError(f"{where} has the value {value!r}; expected a whole number, or the word ignore")
    return _Entry(name, value, _colour(colour, where) if colour else None)


def _sorted_out(cells: Sequence[str]) -> tuple[list[str], list[str]]:
    """(cells, what each is) of a line without a header."""
    cells = [cell for cell in cells if cell]
    for form, kinds in _FORMS if len(cells) == 1 else ():
        match = form.fullmatch(cells[0])
        if match:
            return [*match.groups()], kinds
    kinds = []
    numbers = [i for i, cell in enumerate(cells) if cell.isdecimal()]
    channels = numbers[-3:] if len(numbers) in (3, 4) else []
    for i, cell in enumerate(cells):
        if i in channels:
            kinds.append(("red", "green", "blue")[channels.index(i)])
        elif (cell.isdecimal() or cell.casefold() in _IGNORED) and i + len(cells) > 1:
            kinds.append("value" if "value" not in kinds else "")
        elif _is_colour(cell):
            kinds.append("colour")
        else:
            kinds.append("name" if "name" not in kinds else "")
    return cells, kinds if all(kinds) else []


def _is_colour(text: str) -> bool:
    return bool(re.fullmatch(r"#[0-9a-fA-F]{3,8}|[(\[]?\s*\d+(?:[\s,;]+\d+){2}\s*[)\]]?", text))


def _colour(text: str, where: str) -> Colour:
    if text.startswith("#") or text.isalpha():
        with contextlib.suppress(ValueError):
            red, green, blue = ImageColor.getrgb(text)[:3]
            return red, green, blue
    elif _is_colour(text):
        red, green, blue = map(int, re.findall(r"\d+", text))
        if max(red, green, blue) < 256:
            return red, green, blue
    raise ValueError(f"{where} has the colour {text!r}; expected #RRGGBB, or three numbers from 0 to 255")


@functools.lru_cache(maxsize=8)
def distinct_colours(count: int) -> tuple[Colour, ...]:
    """(red, green, blue) of each of `count` classes, as far as can be from those before it, from black and white."""
    levels = max(4, int(np.ceil((2 * count + 2) ** (1 / 3))))
    steps = np.rint(np.linspace(0, 255, levels))
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    seen = grid * np.sqrt([2.0, 4.0, 3.0])  # the eye tells greens best
    distance = np.minimum(*(np.linalg.norm(seen - seen[end], axis=1) for end in (0, -1)))
    chosen = []
    for _ in range(count):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(seen - seen[chosen[-1]], axis=1))
    return tuple((int(red), int(green), int(blue)) for red, green, blue in grid[chosen])
