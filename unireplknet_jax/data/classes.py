"""Classes of a data set in the order of a model: by their names wherever names tell, for all modalities."""

from __future__ import annotations

import functools
import logging
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unireplknet_jax.data.base import Source, listed, near

_SYNSET = re.compile(r"n\d{8}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Renumbered:
    """A source whose examples have the classes of `labels`. numbers: for each class of the source, which of them."""

    source: Source
    labels: tuple[str, ...]
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = dict(self.source[index])
        if "label" in example:
            example["label"] = self.numbers[example["label"]]
        if "classes" in example:
            example["classes"] = self._renumbered(example["classes"])
        if "boxes" in example:  # of objects, each of which has a class
            example["labels"] = np.array(self.numbers, np.int32)[example["labels"]]
        if "label_map" in example:  # of the class of every pixel; -1 is none
            example["label_map"] = np.array([*self.numbers, -1], np.int16)[example["label_map"]]
        return example

    def contents(self) -> dict[str, list[int]]:
        """Those of the source."""
        return self.source.contents()

    def _renumbered(self, classes: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.numbers[number] for number in classes)


def in_order_of(labels: Sequence[str], source: Source, name: str) -> Source:
    """The source with the classes of a model in the model's order; as it is if the model's classes have no names.

    name: what errors call the data. Raises ValueError as `numbers_of` does.
    """
    if not labels:
        return source
    numbers = numbers_of(tuple(labels), tuple(source.labels), name)
    return source if numbers == tuple(range(len(labels))) else Renumbered(source, tuple(labels), numbers)


@functools.lru_cache(maxsize=16)  # so that a run says once what it assumes
def numbers_of(labels: tuple[str, ...], found: tuple[str, ...], name: str) -> tuple[int, ...]:
    """For each class that the data called `name` have, its number among a model's labels.

    Names are compared as a person reads them: case, underscores, composed letters and zeros before a whole number make
    no difference. The data may have some of the model's classes only. Synsets ("n01440764") and whole numbers that are
    no names of the model stand for its classes in their order, which is said in the log.

    Raises ValueError for any other names, for synsets that are not sorted and numbers that do not follow each other,
    and where they are not as many as the model's classes.
    """
    if found == labels:
        return tuple(range(len(labels)))
    numbers = tuple(number for number in places_among(labels, found) if number is not None)
    if found and len(numbers) == len(found):
        if len(found) < len(labels):
            _log.warning("%s has %d of the %d classes of the model: %s", name, len(found), len(labels), listed(found))
        return numbers
    unknown = [label for label in _absent(found, labels) if label not in {*labels}]  # which may be known twice
    if len(found) != len(labels):
        raise ValueError(
            f"{name} has {len(found)} classes, but the model has {len(labels)}, and its names are others: {name} has "
            f"{listed(unknown or found)}, the model {listed(labels)}."
        )
    if len(unknown) < len(found) or not _in_an_order(found):
        raise ValueError(
            f"{name} has other classes than the model: {listed(unknown or found)} in place of "
            f"{listed(_absent(labels, found) or labels)}; give them the same names."
        )
    _log.warning(
        "%s: its classes are taken in order: %s is %s, %s is %s", name, found[0], labels[0], found[-1], labels[-1]
    )
    return tuple(range(len(labels)))


def number_of(name: str, labels: Sequence[str], classes: int) -> int:
    """The number of a class by its name, as a person reads it, or by the number itself where no class is called so.

    labels: the names of all `classes` classes, or none. Raises ValueError with the nearest names.
    """
    (found,) = places_among(labels, [name])
    if found is not None:
        return found
    if name.isdecimal() and int(name) < classes:
        return int(name)
    if not labels:
        raise ValueError(f"no class is called {name!r}: the classes have no names; give a number below {classes}.")
    close = near(name, labels)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"the classes are {listed(labels, 10)}."
    raise ValueError(f"no class is called {name!r}; {hint}")


def places_among(known: Sequence[str], names: Sequence[str]) -> tuple[int | None, ...]:
    """For each name its place among the known ones, as a person reads them; None where it is not among them.

    Case, underscores, composed letters, blanks around and zeros before a whole number make no difference, unless two of
    either would be one then: they are compared letter by letter. Of a name that is known twice nobody can tell which.
    """
    for key in (_as_read, str):
        places, keys = {key(each): place for place, each in enumerate(known)}, [key(name) for name in names]
        if len(places) == len(known) and len({*keys}) == len(keys):
            return tuple(map(places.get, keys))
    return tuple(known.index(name) if known.count(name) == 1 else None for name in names)


def check_same_labels(expected: Sequence[str], found: Sequence[str], expected_name: str, found_name: str) -> None:
    """Raise ValueError where two splits have other classes (`places_among`); their order may differ."""
    missing = _absent(expected, found)
    extra = _absent(found, expected)
    if missing or extra:
        parts = [f"{kind} {listed(names)}" for kind, names in (("lacks", missing), ("also has", extra)) if names]
        raise ValueError(
            f"the classes of {found_name} are not those of {expected_name}: it {' and '.join(parts)}; give both the "
            "same classes (a class folder may be empty)"
        )


def _absent(names: Sequence[str], known: Sequence[str]) -> list[str]:
    return [name for name, place in zip(names, places_among(known, names), strict=True) if place is None]


def _in_an_order(names: Sequence[str]) -> bool:
    """Whether names are sorted synsets, or whole numbers that follow each other."""
    if all(map(_SYNSET.fullmatch, names)):
        return [*names] == sorted(names)
    return all(map(str.isdecimal, names)) and [int(name) - int(names[0]) for name in names] == [*range(len(names))]


def in_text_order(source: Source) -> Source:
    """A source whose classes are whole numbers with these in the order of texts, 10 before 2; any other as it is."""
    labels = sorted(source.labels)
    if labels == [*source.labels] or not all(map(str.isdecimal, labels)):
        return source
    return Renumbered(source, tuple(labels), tuple(labels.index(label) for label in source.labels))


def in_natural_order(names: Sequence[str]) -> list[str]:
    """Names in order: as numbers if all are whole numbers, 2 before 10, else as texts."""
    return sorted(names, key=lambda name: (int(name), name)) if all(map(str.isdecimal, names)) else sorted(names)


def _as_read(name: str) -> str:
    name = " ".join(unicodedata.normalize("NFKC", name).replace("_", " ").casefold().split())
    return str(int(name)) if name.isdecimal() else name
