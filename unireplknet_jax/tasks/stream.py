"""What a network gives of many windows, computed when it is read, so that little of it is there at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, overload

import jax
import numpy as np

from unireplknet_jax.tasks.base import Example

_MOST_BYTES = 2**27  # of what a network gives of the windows of one example, above which it is streamed
# Of what it then gives at a time; malloc gives so large pieces back, smaller groups took 0.1 to 0.2 GB more in the end.
_GROUP_BYTES = 2**26
_FEWEST = 3  # windows of a group: so many go through the network one after the other, as all of them would


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


class Streaming:
    """Gives `Stream`s of the examples of a task whose windows' outputs are too large to be there at once."""

    def __init__(
        self,
        streams: Mapping[str, Mapping[str, str]],
        function: Callable[..., Any],
        program: Callable[..., Any],
        variables: Any,
    ) -> None:
        """streams: `Task.streams`. function(variables, {name: (1, k, ...)}): a tree whose one leaf is (1, k, ...).

        It is traced; program is the same to be called, compiled.
        """
        self._streams, self._function, self._program, self._variables = streams, function, program, variables
        self._bytes: dict[Any, int] = {}  # {the shapes of a window: the bytes of what it gives}

    def __call__(self, example: Example) -> dict[str, Any]:
        """{name: Stream} of an example; {} of one whose windows give 128 MB or less."""
        windows = {
            output: {name: example[own] for name, own in places.items()} for output, places in self._streams.items()
        }
        counts = {output: min(map(len, each.values())) for output, each in windows.items()}
        one = max((self._bytes_of_one(each) for each in windows.values()), default=0)
        if one * sum(counts.values()) <= _MOST_BYTES:
            return {}
        group = max(_GROUP_BYTES // one, _FEWEST)
        return {
            output: Stream(functools.partial(self._compute, each, group), group, range(counts[output]))
            for output, each in windows.items()
        }

    def _bytes_of_one(self, windows: Mapping[str, Any]) -> int:
        """The bytes of what the function gives of one of these windows, {name: (k, ...)}."""
        shapes = {name: jax.ShapeDtypeStruct((1, 1, *np.shape(v)[1:]), v.dtype) for name, v in windows.items()}
        key = tuple(shape.shape for shape in shapes.values())
        if key not in self._bytes:
            (leaf,) = jax.tree.leaves(jax.eval_shape(self._function, self._variables, shapes))
            self._bytes[key] = leaf.size * leaf.dtype.itemsize
        return self._bytes[key]

    def _compute(self, windows: Mapping[str, Any], group: int, start: int, stop: int) -> np.ndarray:
        """(stop - start, ...), what the function gives of some of the windows {name: (k, ...)}, `group` at the most."""
        inputs = {}
        for name, value in windows.items():
            some = np.asarray(value[start:stop])
            padding = [(0, group - len(some))] + [(0, 0)] * (some.ndim - 1)
            inputs[name] = np.pad(some, padding, mode="edge")[None]
        (found,) = jax.tree.leaves(self._program(self._variables, inputs))
        return jax.device_get(found)[0, : stop - start]
