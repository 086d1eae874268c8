"""A checkpoint's network, compiled for batches of examples of a few shapes, and kept for the next ones."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from unireplknet_jax.models.program import AheadOfTime
from unireplknet_jax.tasks.base import Example
from unireplknet_jax.tasks.checkpoint import Checkpoint
from unireplknet_jax.tasks.stream import Streaming

_Program = Callable[[dict[str, np.ndarray]], Mapping[str, Any]]
_Kind = tuple[tuple[int, ...], ...]  # the shapes of an example
# Input values, those of a dozen pictures, up to which the compiler's optimizations cost more time than they save.
_FEW_VALUES = 2**21
_MOST_PADDING = 4  # full batches of padding that are cheaper than to compile for a smaller batch


class Network:
    """A function of a checkpoint's variables and inputs, compiled for batches of one size for each kind of example.

    A kind is what has the same shapes. The program for the batch that came first serves later ones, too, padded or in
    parts; another one is compiled for full batches, and for small ones that come again and again. A program that was
    compiled quickly gives way to an optimized one when many examples come.

    What is large of the windows of one example is a `Stream`, which one program computes, a few windows at a time.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        function: Callable[..., Mapping[str, jax.Array]],
        batch_size: int = 8,
        streams: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """function(module, variables, inputs): {name: (n, ...)} of inputs {name: (n, ...)}; inside jit.

        streams: as `Task.streams`, of this function.
        """
        module, self._variables = checkpoint.module, checkpoint.variables
        self._jitted = jax.jit(lambda variables, inputs: function(module, variables, inputs))
        of_windows = AheadOfTime(self._jitted, f"the network of {checkpoint.task.name} for a few windows at a time")
        self._begin(checkpoint, batch_size, Streaming(streams or {}, self._jitted, of_windows, self._variables))

    def _begin(self, checkpoint: Checkpoint, batch_size: int, streaming: Callable[[Example], dict[str, Any]]) -> None:
        self._task, self._batch_size = checkpoint.task, batch_size
        self._names = list(self._task.specs(train=False)[0].inputs)
        self._programs: dict[
            tuple[_Kind, int], tuple[_Program, bool]
        ] = {}  # {(kind, rows): (program, whether it was compiled quickly)}
        self._streaming = streaming
        self._padding: collections.Counter[_Kind] = collections.Counter()  # {kind: rows that were computed for nothing}

    def __call__(self, examples: Sequence[Example], sources: int = 0) -> list[dict[str, Any]]:
        """What the function gives for every example, {name: array}. sources: how many there will be at least."""
        if not examples:
            return []
        found: list[dict[str, Any]] = [self._streaming(example) for example in examples]
        groups: dict[_Kind, list[int]] = {}
        for index, example in enumerate(examples):
            if not found[index]:
                groups.setdefault(tuple(np.shape(example[name]) for name in self._names), []).append(index)
        quick = max(len(examples), sources) * sum(np.size(examples[0][name]) for name in self._names) <= _FEW_VALUES
        for kind, own in groups.items():
            rows = self._rows(kind, len(own), len(examples))
            for start in range(0, len(own), rows):
                some = own[start : start + rows]
                result = self._apply(kind, rows, quick, [examples[index] for index in some])
                for row, index in enumerate(some):
                    found[index] = {name: value[row] for name, value in result.items()}
        return found

    def _rows(self, kind: _Kind, count: int, of_all: int) -> int:
        """The batch size for `count` examples of a kind, of so many that come together."""
        known = sorted(rows for other, rows in self._programs if other == kind)
        if not known or (count >= self._batch_size > known[-1]):
            return min(self._batch_size, of_all)
        rows = next((rows for rows in known if rows >= count), known[-1])
        self._padding[kind] += max(rows - count, 0)
        if self._padding[kind] <= _MOST_PADDING * self._batch_size:
            return rows
        del self._padding[kind]
        return count

    def _apply(self, kind: _Kind, rows: int, quick: bool, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        """{name: (rows, ...)}; the batch is filled up with zeros."""
        inputs = {}
        for name in self._names:
            stacked = np.stack([example[name] for example in examples])
            inputs[name] = np.pad(stacked, [(0, rows - len(stacked))] + [(0, 0)] * (stacked.ndim - 1))
        program, was_quick = self._programs.get((kind, rows), (None, False))
        if program is None or (was_quick and not quick):
            program = self._program(quick)
            self._programs[kind, rows] = program, quick
        return jax.device_get(program(inputs))

    def _program(self, quick: bool) -> _Program:
        """A function of inputs, to be compiled for the first that it gets."""
        program = AheadOfTime(self._jitted, f"the network of {self._task.name}", quick=quick)
        return functools.partial(program, self._variables)


class InRuntime(Network):
    """The same of an artefact of `export`, whose runtime has its program already."""

    def __init__(self, checkpoint: Checkpoint, runtime: _Program, batch_size: int = 8) -> None:
        self._runtime = runtime
        self._begin(checkpoint, batch_size, lambda _: {})  # it gives all at once

    def _program(self, quick: bool) -> _Program:
        del quick
        return self._runtime
