"""Class names in class-index order: those that ship with the package, and files of users."""

from __future__ import annotations

import json
import os
from importlib import resources
from typing import Any

from unireplknet_jax.data.text import read_text

LABEL_SETS = (
    "ade20k",
    "coco",
    "imagenet1k",
    "imagenet22k",
    "kinetics400",
    "modelnet40",
    "scanobjectnn",
    "speech_commands",
)
COLOUR_SETS = ("ade20k",)  # those whose classes have colours


def read_labels(name: str) -> tuple[str, ...]:
    """The class names of one of LABEL_SETS (150, 80, 1000, 21,841, 400, 40, 15 and 35 of them); entry i names class i.

    The words' order is that of the label file that the original takes from AST; torchaudio and TFDS have others. Of
    ImageNet the order is that of an ImageFolder: synset folders sorted by name. The 22K names are not unique ("crane"
    is a bird and a machine); their synsets stand in the first column of labels/imagenet22k.txt. The first line of each
    file states where it comes from.

    Raises ValueError for another name.
    """
    if name not in LABEL_SETS:
        raise ValueError(f"there is no label set {name!r}; expected one of {', '.join(LABEL_SETS)}")
    return tuple(label for _, label in _rows(name))


def read_colours(name: str) -> tuple[tuple[int, int, int], ...]:
    """The colours (red, green, blue) of the classes of one of COLOUR_SETS, in the order of `read_labels`.

    Two classes may have one colour: the roads and the skyscrapers of ADE20K have. Raises ValueError for another name.
    """
    if name not in COLOUR_SETS:
        raise ValueError(f"there are no colours for {name!r}; expected one of {', '.join(COLOUR_SETS)}")
    colours = [tuple(map(int, colour.split())) for colour, _ in _rows(name)]
    return tuple((red, green, blue) for red, green, blue in colours)


def _rows(name: str) -> list[tuple[str, str]]:
    """(what stands before the name, the class name) of every class: a synset, a colour or nothing."""
    text = resources.files(__package__).joinpath("labels", f"{name}.txt").read_text(encoding="utf-8")
    lines = (line.rpartition("\t") for line in text.splitlines() if not line.startswith("#"))
    return [(first, label) for first, _, label in lines]


def read_label_file(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The class names in a user's file: one a line, empty lines and quotes around a name left out, or as JSON.

    JSON is a list of names, or an object {"0": name, ...}, whose names may be lists that end in them, as Keras has
    [synset, name]; of a configuration of the Hugging Face hub it is the object "id2label".
    Raises ValueError, one sentence, for a file that is no text, for one without names and for JSON of another form.
    """
    text = read_text(path, "one class name a line")
    if text.lstrip().startswith(("{", "[")):
        names = _names_in_json(text)
        if names is None:
            raise ValueError(f'{path} is no JSON of class names; expected a list of them, or {{"0": NAME, "1": NAME}}')
    else:
        names = [_without_quotes(line.strip()) for line in text.split("\n") if line.strip()]
    if not names:
        raise ValueError(f"{path} is empty; expected one class name a line")
    return tuple(names)


def _without_quotes(name: str) -> str:
    return name[1:-1] if len(name) > 2 and name[0] == name[-1] == '"' else name


def _names_in_json(text: str) -> list[str] | None:
    """The names in order; None for JSON of another form."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict):
        found = found.get("id2label", found)
    if isinstance(found, dict):
        numbers = {key: int(key) for key in found if key.isdecimal()}
        if sorted(numbers.values()) != [*range(len(found))]:
            return None
        found = [found[key] for key in sorted(numbers, key=lambda key: numbers[key])]
    names = [name[-1] if isinstance(name, list) and name else name for name in found]
    return names if all(isinstance(name, str) and name.strip() for name in names) else None
