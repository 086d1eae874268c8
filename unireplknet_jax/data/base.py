"""What every source of labelled examples offers, and the sentences about names and splits that do not fit."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class Source(Protocol):
    """Random access to labelled examples; picklable.

    Example i is a dictionary; its "id" is unique in the split and the same from run to run, its other entries are the
    modality's. `len` and `labels` cost nothing. Some have `__getitems__(indices)` too, which reads a batch in parallel.
    `contents()` tells the set as it is from the same set after a change, without reading an example: for each group of
    examples, as a rule a class, [how many there are, a checksum of their names]; {} for a set that never changes.
    """

    labels: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def contents(self) -> dict[str, list[int]]: ...


def check_split(name: str, split: str, known: Iterable[str]) -> None:
    """Raise ValueError where a set has no such split."""
    if split not in known:
        raise ValueError(f"{name} has no split {split!r}; expected one of {', '.join(known)}")


def near(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The known names that an unknown one may be meant for, the likeliest first; else those it is a part of."""
    plain = {each.casefold(): each for each in known}
    found = difflib.get_close_matches(name.casefold(), plain, n=most)
    parts = [each for each in plain if len(name) > 2 and name.casefold() in each]
    return [plain[each] for each in found or parts[:most]]


def nearest(name: str, known: Sequence[str], otherwise: str = "", most: int = 3) -> str:
    """The end of a sentence about an unknown name: what it may be meant for, or else `otherwise`, or all there is."""
    found = near(name, known, most)
    return f"did you mean {' or '.join(found)}?" if found else otherwise or f"expected one of {', '.join(known)}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few names of many, and how many there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f", ... ({len(names):,} in all)" if len(names) > most else "")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def finite(value: Any) -> Any:
    """A document as JSON has it: texts as keys, null for NaN and infinity."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
