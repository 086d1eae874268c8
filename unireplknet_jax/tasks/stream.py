"""What a network gives of many windows, computed when it is read, so that little of it is there at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

import numpy as np


class Stream:
    """A sequence of arrays that are computed in groups, when one of a group is read.

    It is to be read in rounds, each from lower places to higher ones, and none begins before the one before it did:
    when a round begins, the groups before its first place are forgotten. Read otherwise it gives the same, but computes
    again what it has forgotten. A slice is a stream of its own.
    """

    def __init__(self, compute: Callable[[int, int], np.ndarray], group: int, places: range) -> None:
        """compute(start, stop): (stop - start, ...), the arrays of these places, up to `group` of them at a time."""
        self._compute, self._group, self._places = compute, group, places
        self._groups: dict[int, np.ndarray] = {}
        self._latest = 0

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Stream: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | Stream:
        if isinstance(index, slice):
            return Stream(self._compute, self._group, self._places[index])
        place = range(len(self))[index]
        if place < self._latest:
            self._groups = {number: maps for number, maps in self._groups.items() if number >= place // self._group}
        self._latest = place
        number, row = divmod(place, self._group)
        if number not in self._groups:
            own = self._places[number * self._group :][: self._group]
            self._groups[number] = self._compute(own.start, own.stop)
        return self._groups[number][row]
