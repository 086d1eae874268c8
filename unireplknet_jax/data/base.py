"""What every source of labelled pictures offers, and the one that keeps them in memory."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class ImageSource(Protocol):
    """Random access to labelled pictures; picklable.

    Example i is {"image": picture, "label": int, "id": int}. The picture is a uint8 array (h, w, c) with c = 1 (grey)
    or 3 (RGB), or an `EncodedImage`: the bytes of a JPEG, PNG, ... file, which whoever needs the pixels decodes with
    `pictures.decode.read_image`. The label indexes `labels`; the id is unique in the split and the same from run to
    run. `len` and `labels` cost nothing. Some have `__getitems__(indices)` too, which reads a batch in parallel.
    """

    labels: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


class EncodedImage(bytes):
    """The bytes of a picture file, and the name by which errors call it: its path, or shard and record."""

    name: str

    def __new__(cls, data: bytes, name: str):
        image = super().__new__(cls, data)
        image.name = name
        return image

    def __getnewargs__(self):
        return bytes(self), self.name

    def __repr__(self):
        return f"EncodedImage({len(self)} bytes of {self.name})"


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Pictures in memory: images (n, h, w, c) uint8, targets (n,) and ids (n,) integer arrays."""

    images: np.ndarray
    targets: np.ndarray
    ids: np.ndarray
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": int(self.targets[index]), "id": int(self.ids[index])}


def check_split(name: str, split: str, known: Iterable[str]) -> None:
    """Raise ValueError where a set has no such split."""
    if split not in known:
        raise ValueError(f"{name} has no split {split!r}; expected one of {', '.join(known)}")


def check_same_labels(expected: Sequence[str], found: Sequence[str], expected_name: str, found_name: str) -> None:
    """Raise ValueError where two splits have other classes, or the same in another order: their labels differ."""
    missing = [label for label in expected if label not in {*found}]
    extra = [label for label in found if label not in {*expected}]
    if missing or extra:
        parts = [f"{kind} {listed(names)}" for kind, names in (("lacks", missing), ("also has", extra)) if names]
        raise ValueError(
            f"the classes of {found_name} are not those of {expected_name}: it {' and '.join(parts)}; give both the "
            "same classes (a class folder may be empty)"
        )
    if tuple(expected) != tuple(found):
        raise ValueError(f"{found_name} has the classes of {expected_name} in another order; give both the same order")


def labels_of_splits(open_split: Callable[[Mapping[str, Any], str], Any], data: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes of data["train_split"]; ValueError where data["eval_split"] has other ones or another order.

    open_split(data, split) gives a source with `labels`; an empty "eval_split" is not looked at.
    """
    labels = open_split(data, data["train_split"]).labels
    if data["eval_split"]:
        found = open_split(data, data["eval_split"]).labels
        check_same_labels(labels, found, data["train_split"], data["eval_split"])
    return labels


def check_order(expected: Sequence[str], found: Sequence[str], name: str) -> None:
    """Raise ValueError where a model and the data called `name` have the same classes in another order.

    Other names are let pass: those of a model often say better what the data call "17" or "n01440764".
    """
    if tuple(expected) != tuple(found) and sorted(expected) == sorted(found):
        wrong = next(i for i, (label, other) in enumerate(zip(expected, found, strict=True)) if label != other)
        raise ValueError(
            f"{name} has the classes of the model in another order: class {wrong} is {found[wrong]!r}, not "
            f"{expected[wrong]!r}; give data in the same order, or train with task.labels in that of the data"
        )


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a sentence about an unknown name."""
    near = difflib.get_close_matches(name, known, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"expected one of {', '.join(known)}" if len(known) < 10 else "tfds.list_builders() lists its sets"


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few names of many, and how many there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f", ... ({len(names):,} in all)" if len(names) > most else "")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
