"""What every source of labelled examples offers, and the sentences about names and splits that do not fit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class Source(Protocol):
    """Random access to labelled examples; picklable.

    Example i is a dictionary; its "id" is unique in the split and the same from run to run, its other entries are the
    modality's. `len` and `labels` cost nothing. Some have `__getitems__(indices)` too, which reads a batch in parallel.
    """

    labels: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def check_split(name: str, split: str, known: Iterable[str]) -> None:
    """Raise ValueError where a set has no such split."""
    if split not in known:
        raise ValueError(f"{name} has no split {split!r}; expected one of {', '.join(known)}")


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
